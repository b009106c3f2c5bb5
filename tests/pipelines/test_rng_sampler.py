"""Laws 1 and 2: draws depend on (seed, epoch, row, view, slot) only; an epoch is exact."""

import numpy as np
import pytest

from pipelines.rng import RowRng
from pipelines.sampler import BlockShuffle, Sampler, all_rows


def test_a_row_draws_the_same_in_any_company() -> None:
    together = RowRng(7, 3).uniform(np.arange(100), 2, 16)
    alone = np.concatenate([RowRng(7, 3).uniform(np.array([row]), 2, 16) for row in range(100)])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("other", [(8, 3, 2), (7, 4, 2), (7, 3, 1)])
def test_seed_epoch_and_view_each_change_the_draws(other: tuple[int, int, int]) -> None:
    rows = np.arange(1000)
    a, b = RowRng(7, 3).uniform(rows, 2, 4), RowRng(*other[:2]).uniform(rows, other[2], 4)
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.06


def test_draws_are_uniform_and_uncorrelated() -> None:
    u = RowRng(0, 0).uniform(np.arange(50_000), 0, 8)
    counts = np.stack([np.histogram(column, 20, (0, 1))[0] for column in u.T])
    chi_square = ((counts - 2500) ** 2 / 2500).sum(axis=1)
    assert chi_square.max() < 50  # 19 degrees of freedom: beyond 1 in 10,000
    between_slots = np.corrcoef(u.T) - np.eye(8)
    between_rows = [np.corrcoef(u[:-1, i], u[1:, i])[0, 1] for i in range(8)]
    assert max(np.abs(between_slots).max(), np.abs(between_rows).max()) < 0.02


def blocks_of(num_rows: int, groups: int = 4, size: int = 5, window: int = 2) -> BlockShuffle:
    """Small blocks of rows that lie in the file in an order of its own."""
    return BlockShuffle(np.random.default_rng(1).permutation(num_rows), groups, size, window)


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("blocks", [None, blocks_of(103), blocks_of(103, size=1000)])
def test_an_epoch_is_exact_over_all_ranks(world_size: int, blocks: BlockShuffle | None) -> None:
    num_rows, batch = 103, 8
    ranks = [Sampler(num_rows, batch, 5, rank, world_size, blocks) for rank in range(world_size)]
    steps = ranks[0].steps_per_epoch
    assert steps == num_rows // batch
    for epoch in (0, 1):
        seen = [o.rows(epoch * steps + s) for s in range(steps) for o in ranks]
        rows = np.concatenate(seen)
        assert len(rows) == steps * batch == len(np.unique(rows))
        assert rows.min() >= 0 and rows.max() < num_rows


@pytest.mark.parametrize("blocks", [None, blocks_of(50, 6)])
@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_ranks_share_the_batch_of_one_process(world_size: int, blocks: BlockShuffle | None) -> None:
    for step in range(20):
        whole = Sampler(50, 12, 1, 0, 1, blocks).rows(step)
        ranks = [Sampler(50, 12, 1, rank, world_size, blocks) for rank in range(world_size)]
        np.testing.assert_array_equal(whole, np.concatenate([o.rows(step) for o in ranks]))


@pytest.mark.parametrize("blocks", [None, blocks_of(1000, 1)])
def test_epochs_and_seeds_shuffle_anew(blocks: BlockShuffle | None) -> None:
    first = Sampler(1000, 1000, 0, blocks=blocks).rows(0)
    assert (first != Sampler(1000, 1000, 0, blocks=blocks).rows(1)).mean() > 0.98
    assert (first != Sampler(1000, 1000, 1, blocks=blocks).rows(0)).mean() > 0.98


@pytest.mark.parametrize("blocks", [None, blocks_of(103)])
def test_a_step_s_rows_need_no_other_step(blocks: BlockShuffle | None) -> None:
    straight = Sampler(103, 8, 5, blocks=blocks)
    expected = [straight.rows(step) for step in range(30)]
    for step in np.random.default_rng(0).permutation(30).tolist():
        again = Sampler(103, 8, 5, blocks=blocks and blocks_of(103))
        np.testing.assert_array_equal(again.rows(step), expected[step])


def test_rows_that_no_epoch_ended_with_come_in_others() -> None:
    order = Sampler(103, 8, 5, blocks=blocks_of(103))
    missing = [
        set(range(103)) - {int(row) for s in range(12) for row in order.rows(12 * epoch + s)}
        for epoch in range(4)
    ]
    assert all(len(rows) == 7 for rows in missing) and not set.intersection(*missing)


def test_a_group_reads_blocks_of_its_own_a_few_at_a_time() -> None:
    """Rows are at most a window late, so those of m in a row lie within two windows and m."""
    num_rows, batch, groups, size, window = 40_000, 64, 4, 20, 8
    blocks = blocks_of(num_rows, groups, size, window)
    order = Sampler(num_rows, batch, 3, blocks=blocks)
    steps, share = order.steps_per_epoch, batch // groups
    rows = np.stack([order.rows(step) for step in range(steps)]).reshape(steps, groups, share)
    touched = [set(blocks.of(rows[:, group].ravel()).tolist()) for group in range(groups)]
    assert sum(map(len, touched)) <= num_rows // size + groups - 1  # shared only where parts meet
    for group in range(groups):
        for part in rows[:, group]:
            assert len(blocks.of(part)) <= (2 * window * size + share) / size + 2
    inner = rows[window * size // share : -window * size // share].reshape(-1, share)
    different = np.mean([len(blocks.of(part)) for part in inner])
    assert different > 0.75 * window  # and of no fewer: 16 rows of 8 blocks that overlap in time


def test_blocks_hold_neighbours_in_the_file() -> None:
    blocks = blocks_of(103)
    every = [blocks.rows(block) for block in range(21)]
    np.testing.assert_array_equal(np.concatenate(every), blocks.sequence)
    for number, rows in enumerate(every):
        np.testing.assert_array_equal(blocks.of(rows), [number])


def test_blocks_refuse_groups_that_do_not_divide_the_batch() -> None:
    with pytest.raises(ValueError, match="--groups 3"):
        Sampler(100, 8, blocks=blocks_of(100, groups=3))


@pytest.mark.parametrize(("num_rows", "batch", "world"), [(7, 8, 1), (100, 9, 2), (5, 0, 1)])
def test_a_batch_that_does_not_fit_is_refused(num_rows: int, batch: int, world: int) -> None:
    with pytest.raises(ValueError, match="--batch-size"):
        Sampler(num_rows, batch, world_size=world)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_all_rows_come_exactly_once(world_size: int) -> None:
    ranks = [list(all_rows(5, 2, rank, world_size)) for rank in range(world_size)]
    rows = np.concatenate([batch for rank in ranks for batch in rank])
    np.testing.assert_array_equal(rows, np.arange(5))
