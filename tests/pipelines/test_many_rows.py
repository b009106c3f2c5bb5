"""Many rows: the same epochs as few, sorted by compiled code, made once a machine and ahead."""

import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import permutation, sampler
from pipelines.balance import Balance
from pipelines.rng import ORDER, RowRng
from pipelines.sampler import BlockShuffle, Sampler


@pytest.fixture(autouse=True)
def no_old_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path))
    sampler._epochs.cache_clear()
    yield
    sampler._epochs.cache_clear()


def by_numpy(rng: RowRng, num_rows: int) -> np.ndarray:
    """The rows as NumPy sorts their hashes."""
    return np.argsort(rng.bits(np.arange(num_rows), ORDER, 1)[:, 0], kind="stable")


def blocks_by_numpy(order: BlockShuffle, batch_size: int, rng: RowRng) -> np.ndarray:
    """The formula of a block shuffle, on all groups at once."""
    num_rows = len(order.sequence)
    steps, share = num_rows // batch_size, batch_size // order.groups
    numbers = np.arange(-(-num_rows // order.size))
    numbers = numbers[np.argsort(rng.bits(numbers, ORDER + 1, 1)[:, 0], kind="stable")]
    places = (numbers[:, None] * order.size + np.arange(order.size)).ravel()
    rows = order.sequence[places[places < num_rows]][: steps * batch_size]
    late = rng.uniform(rows, ORDER, 1)[:, 0] * order.window * order.size
    parts, late = (x.reshape(order.groups, steps * share) for x in (rows, late))
    turn = np.argsort(np.arange(steps * share) + late, axis=1, kind="stable")
    parts = np.take_along_axis(parts, turn, axis=1).reshape(order.groups, steps, share)
    return parts.transpose(1, 0, 2).reshape(-1)


def balance_by_numpy(order: Balance, batch_size: int, rng: RowRng) -> np.ndarray:
    """The formula of systematic sampling, step by step."""
    steps = len(order.weights) // batch_size
    between = (1 << 40) // steps
    line = by_numpy(rng, len(order.weights))
    ends = np.cumsum(order.units(batch_size, between * steps)[line])
    start = int(rng.uniform(np.zeros(1, np.int64), ORDER + 6, 1)[0, 0] * between)
    turn = np.argsort(rng.bits(np.arange(steps), ORDER + 5, 1)[:, 0], kind="stable")
    places = (turn * between + start)[:, None] + np.arange(batch_size) * (between * steps)
    rows = line[np.searchsorted(ends, places, side="right")]
    late = rng.bits(np.arange(steps * batch_size), ORDER + 4, 1).reshape(steps, batch_size)
    return np.take_along_axis(rows, np.argsort(late, axis=1, kind="stable"), axis=1).ravel()


@settings(max_examples=60, deadline=None)
@given(
    num_rows=st.integers(1, 3000),
    seed=st.integers(-(2**63), 2**64 - 1),
    epoch=st.integers(0, 10**6),
    dtype=st.sampled_from([np.uint32, np.int64]),
)
def test_the_compiled_sort_is_numpy_s(num_rows: int, seed: int, epoch: int, dtype: type) -> None:
    rng = RowRng(seed, epoch)
    out = np.empty(num_rows, dtype)
    permutation.sort_by_hash(rng, ORDER, out)
    np.testing.assert_array_equal(out, by_numpy(rng, num_rows))


def test_the_compiled_order_of_delays_is_numpy_s_with_ties_too() -> None:
    from pipelines.system import radix

    late = np.arange(5000) + np.random.default_rng(0).integers(0, 40, 5000) / 4
    assert len(np.unique(late)) < 5000
    np.testing.assert_array_equal(radix.sort_delayed(late), np.argsort(late, kind="stable"))


@pytest.mark.parametrize("num_rows", [103, 96, 4001])
@pytest.mark.parametrize("how", ["rows", "blocks", "balance"])
@pytest.mark.parametrize("large", [False, True])
def test_epochs_follow_the_formula_whatever_makes_them(
    how: str, num_rows: int, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, rng = 8, np.random.default_rng(num_rows)
    blocks = BlockShuffle(rng.permutation(num_rows), 4, 5, 3) if how == "blocks" else None
    balance = Balance(rng.random(num_rows) ** 2) if how == "balance" else None
    if large:
        monkeypatch.setattr(permutation, "LARGE", 1)
    steps = Sampler(num_rows, batch, 5).steps_per_epoch
    for epoch in (0, 3):
        draws = RowRng(5, epoch)
        if blocks is not None:
            expected = blocks_by_numpy(blocks, batch, draws)
        elif balance is not None:
            expected = balance_by_numpy(balance, batch, draws)
        else:
            expected = by_numpy(draws, num_rows)[: steps * batch]
        order = Sampler(num_rows, batch, 5, blocks=blocks, balance=balance)
        found = [order.rows(epoch * steps + step) for step in range(steps)]
        assert all(rows.dtype == np.int64 for rows in found)
        np.testing.assert_array_equal(np.concatenate(found), expected)


def test_a_machine_s_processes_share_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the second finds is the file, which holds four bytes a row."""
    monkeypatch.setattr(permutation, "LARGE", 1)
    expected = Sampler(1000, 8, 5).rows(3)
    (file,) = (tmp_path / "tables").iterdir()
    assert file.stat().st_size == 4 * 1000
    sampler._epochs.cache_clear()
    monkeypatch.setattr(permutation, "sort_by_hash", None)  # no second sort
    np.testing.assert_array_equal(Sampler(1000, 8, 5).rows(3), expected)


def test_the_next_epoch_is_made_ahead_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permutation, "LARGE", 1)
    made: list[tuple[int, str]] = []
    sort = permutation.sort_by_hash

    def noted(rng: RowRng, stream: int, out: np.ndarray) -> None:
        made.append((rng.epoch, threading.current_thread().name))
        sort(rng, stream, out)

    monkeypatch.setattr(permutation, "sort_by_hash", noted)
    order = Sampler(1000, 10, 5)
    for step in range(50):
        order.rows(step)
    assert made == [(0, threading.current_thread().name)]
    for step in range(50, 100):
        order.rows(step)
    (thread,) = (t for t in [sampler._epochs(1000, 10, 5, None)(1)._ahead] if t is not None)
    thread.join(30)
    for step in range(100, 150):
        order.rows(step)
    assert made[1:] == [(1, "unmix-shuffle")]


def test_a_step_s_cost_does_not_depend_on_the_number_of_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(permutation, "LARGE", 1)
    touched = []
    for num_rows in (1000, 1_000_000):
        order = Sampler(num_rows, 256, 5)
        order.rows(0)
        tracemalloc.start()
        order.rows(1)
        touched.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert touched[1] < touched[0] + 1000 < 20_000
