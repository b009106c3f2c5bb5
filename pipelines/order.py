"""Which rows a step holds: a pure function of (seed, epoch, step), so a resume is arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipelines.draws import ORDER, Draws


@lru_cache(maxsize=2)
def _shuffled(num_rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the epoch's permutation: the rows sorted by a hash of (seed, epoch, row)."""
    keys = Draws(seed, epoch).bits(np.arange(num_rows), ORDER, 1)[:, 0]
    return np.argsort(keys, kind="stable")


@dataclass(frozen=True)
class Order:
    """Batches of ``batch_size`` positions over ``num_rows`` rows, shared by ``world_size`` ranks.

    Every epoch has exactly ``num_rows // batch_size`` steps on each rank and yields each row at
    most once over all ranks; a rank takes a contiguous slice of each batch's positions.

    Raises:
        ValueError: the data set is smaller than a batch, or the ranks cannot share one evenly.
    """

    num_rows: int
    batch_size: int
    seed: int = 0
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.num_rows < self.batch_size:
            raise ValueError(
                f"--batch-size {self.batch_size} does not fit a data set of {self.num_rows} images"
            )
        if self.batch_size % self.world_size:
            raise ValueError(
                f"--batch-size {self.batch_size} is not divisible by {self.world_size} processes"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Steps of each epoch on each rank; the remaining rows wait for another epoch."""
        return self.num_rows // self.batch_size

    @property
    def positions(self) -> NDArray[np.int64]:
        """This rank's places in every batch, (batch_size / world_size,)."""
        share = self.batch_size // self.world_size
        return np.arange(self.rank * share, (self.rank + 1) * share)

    def epoch(self, step: int) -> int:
        """Return the epoch of a step counted from the start of the run."""
        return step // self.steps_per_epoch

    def rows(self, step: int) -> NDArray[np.int64]:
        """Return this rank's rows of a step counted from the start of the run."""
        epoch, within = divmod(step, self.steps_per_epoch)
        shuffled = _shuffled(self.num_rows, self.seed, epoch)
        return shuffled[within * self.batch_size + self.positions]


def all_rows(
    num_rows: int, batch_size: int, rank: int = 0, world_size: int = 1
) -> Iterator[NDArray[np.int64]]:
    """Yield every row exactly once over all ranks, in order; the last batch may be short.

    Used for evaluation. Ranks take contiguous, nearly equal shares; one may get no row at all.
    """
    begin, end = (num_rows * (rank + i) // world_size for i in (0, 1))
    for first in range(begin, end, batch_size):
        yield np.arange(first, min(first + batch_size, end))
