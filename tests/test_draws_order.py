"""Laws 1 and 2: draws depend on (seed, epoch, row, view, slot) alone; an epoch is exact."""

import numpy as np
import pytest

from pipelines.draws import Draws
from pipelines.order import Order, all_rows


def test_a_row_draws_the_same_in_any_company() -> None:
    together = Draws(7, 3).uniform(np.arange(100), 2, 16)
    alone = np.concatenate([Draws(7, 3).uniform(np.array([row]), 2, 16) for row in range(100)])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("other", [(8, 3, 2), (7, 4, 2), (7, 3, 1)])
def test_seed_epoch_and_view_each_change_the_draws(other: tuple[int, int, int]) -> None:
    rows = np.arange(1000)
    a, b = Draws(7, 3).uniform(rows, 2, 4), Draws(*other[:2]).uniform(rows, other[2], 4)
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.06


def test_draws_are_uniform_and_uncorrelated() -> None:
    u = Draws(0, 0).uniform(np.arange(50_000), 0, 8)
    counts = np.stack([np.histogram(column, 20, (0, 1))[0] for column in u.T])
    chi_square = ((counts - 2500) ** 2 / 2500).sum(axis=1)
    assert chi_square.max() < 50  # 19 degrees of freedom: beyond 1 in 10,000
    between_slots = np.corrcoef(u.T) - np.eye(8)
    between_rows = [np.corrcoef(u[:-1, i], u[1:, i])[0, 1] for i in range(8)]
    assert max(np.abs(between_slots).max(), np.abs(between_rows).max()) < 0.02


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_an_epoch_is_exact_over_all_ranks(world_size: int) -> None:
    num_rows, batch = 103, 8
    ranks = [Order(num_rows, batch, 5, rank, world_size) for rank in range(world_size)]
    steps = ranks[0].steps_per_epoch
    assert steps == num_rows // batch
    for epoch in (0, 1):
        seen = [o.rows(epoch * steps + s) for s in range(steps) for o in ranks]
        rows = np.concatenate(seen)
        assert len(rows) == steps * batch == len(np.unique(rows))
        assert rows.min() >= 0 and rows.max() < num_rows


def test_ranks_share_the_batch_of_one_process() -> None:
    for step in range(20):
        whole = Order(50, 12, 1).rows(step)
        parts = [Order(50, 12, 1, rank, 3).rows(step) for rank in range(3)]
        np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_epochs_and_seeds_shuffle_anew() -> None:
    first = Order(1000, 1000, 0).rows(0)
    assert (first != Order(1000, 1000, 0).rows(1)).mean() > 0.98
    assert (first != Order(1000, 1000, 1).rows(0)).mean() > 0.98


@pytest.mark.parametrize(("num_rows", "batch", "world"), [(7, 8, 1), (100, 9, 2), (5, 0, 1)])
def test_a_batch_that_does_not_fit_is_refused(num_rows: int, batch: int, world: int) -> None:
    with pytest.raises(ValueError, match="--batch-size"):
        Order(num_rows, batch, world_size=world)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_all_rows_come_exactly_once(world_size: int) -> None:
    ranks = [list(all_rows(5, 2, rank, world_size)) for rank in range(world_size)]
    rows = np.concatenate([batch for rank in ranks for batch in rank])
    np.testing.assert_array_equal(rows, np.arange(5))
