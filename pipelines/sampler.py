"""The rows of a step: a pure function of (seed, epoch, step), so a resume restores no state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from pipelines.balance import Balance
from pipelines.rng import ORDER, RowRng

_BLOCKS = ORDER + 1
"""The stream of random numbers from which blocks are shuffled."""


@dataclass(frozen=True, eq=False)
class BlockShuffle:
    """A shuffle that reads a file in large pieces, for data that does not fit in memory.

    ``sequence`` holds the rows in the order of their bytes; ``size`` consecutive rows are a block.
    Each epoch the blocks are shuffled, and the rows of all blocks make one list. The list is
    divided between the batch's ``groups``. Within its part, every row is delayed by a random number
    of places, less than ``window`` blocks. A group is therefore drawn from a few blocks at a time,
    new blocks come one by one, and a machine reads the blocks of its own groups only. The result
    does not depend on the number of processes.
    """

    sequence: NDArray[np.int64]  # (N,)
    groups: int = 1
    size: int = 64
    window: int = 32

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the indices of the blocks that hold ``rows``, each once, ascending."""
        return np.unique(self._place[rows] // self.size)

    def rows(self, block: int) -> NDArray[np.int64]:
        """Return a block's rows; the last one may be short."""
        return self.sequence[block * self.size : (block + 1) * self.size]

    @cached_property
    def _place(self) -> NDArray[np.int64]:
        return np.argsort(self.sequence)

    def shuffled(self, batch_size: int, rng: RowRng) -> NDArray[np.int64]:
        """Return an epoch's rows in the order of their positions, (whole batches,)."""
        num_rows = len(self.sequence)
        steps, share = num_rows // batch_size, batch_size // self.groups
        numbers = np.arange(-(-num_rows // self.size))
        numbers = numbers[np.argsort(rng.bits(numbers, _BLOCKS, 1)[:, 0], kind="stable")]
        places = (numbers[:, None] * self.size + np.arange(self.size)).ravel()
        rows = self.sequence[places[places < num_rows]][: steps * batch_size]
        late = rng.uniform(rows, ORDER, 1)[:, 0] * self.window * self.size
        parts, late = (x.reshape(self.groups, steps * share) for x in (rows, late))
        turn = np.argsort(np.arange(steps * share) + late, axis=1, kind="stable")
        parts = np.take_along_axis(parts, turn, axis=1).reshape(self.groups, steps, share)
        return parts.transpose(1, 0, 2).reshape(-1)


@lru_cache(maxsize=2)
def _shuffled(
    num_rows: int, batch_size: int, seed: int, epoch: int, order: BlockShuffle | Balance | None
) -> NDArray[np.int64]:
    """Return the epoch's rows, sorted by a hash of (seed, epoch, row), or as ``order`` has them."""
    rng = RowRng(seed, epoch)
    if order is not None:
        return order.shuffled(batch_size, rng)
    return np.argsort(rng.bits(np.arange(num_rows), ORDER, 1)[:, 0], kind="stable")


@dataclass(frozen=True)
class Sampler:
    """Batches of ``batch_size`` positions over ``num_rows`` rows, shared by ``world_size`` ranks.

    Every epoch has exactly ``num_rows // batch_size`` steps on each rank and yields each row at
    most once over all ranks. A rank takes a contiguous slice of each batch's positions. Rows are
    shuffled one by one, or by ``blocks``. With ``balance`` they are drawn by weight; a row is then
    in a step at most once, but may be in several steps of an epoch.

    Raises:
        ValueError: the data set is smaller than a batch, the batch is not divisible by the ranks or
            the groups, or the weights do not fit.
    """

    num_rows: int
    batch_size: int
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    blocks: BlockShuffle | None = None
    balance: Balance | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.num_rows < self.batch_size:
            raise ValueError(
                f"--batch-size {self.batch_size} does not fit a data set of {self.num_rows} images"
            )
        if self.batch_size % self.world_size:
            raise ValueError(
                f"--batch-size {self.batch_size} is not divisible by {self.world_size} processes"
            )
        if self.blocks is not None and self.batch_size % self.blocks.groups:
            raise ValueError(
                f"--order blocks: --batch-size {self.batch_size} is not divisible by --groups "
                f"{self.blocks.groups}"
            )
        if self.balance is not None:
            if self.blocks is not None:
                raise ValueError("--balance draws single rows: it needs --order random")
            self.balance.check(self.num_rows, self.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of each epoch on each rank; an epoch leaves out the rows of an incomplete batch."""
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
        order = self.blocks or self.balance
        shuffled = _shuffled(self.num_rows, self.batch_size, self.seed, epoch, order)
        return shuffled[within * self.batch_size + self.positions]


def all_rows(
    num_rows: int, batch_size: int, rank: int = 0, world_size: int = 1
) -> Iterator[NDArray[np.int64]]:
    """Yield every row exactly once over all ranks, in order; the last batch may be short.

    Used for evaluation. Ranks take contiguous, nearly equal shares; a share may be empty.
    """
    begin, end = (num_rows * (rank + i) // world_size for i in (0, 1))
    for first in range(begin, end, batch_size):
        yield np.arange(first, min(first + batch_size, end))
