"""The rows of a step: a pure function of (seed, epoch, step), so a resume restores no state."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines import permutation
from pipelines.balance import Balance
from pipelines.rng import ORDER, RowRng
from pipelines.system.shared import digest_of, one_copy, shared

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

    def __post_init__(self) -> None:
        if self.is_large:
            object.__setattr__(self, "sequence", one_copy("sequence", self.sequence))

    @property
    def is_large(self) -> bool:
        """Whether the rows are so many that the processes of a machine share them."""
        return len(self.sequence) >= permutation.LARGE

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the indices of the blocks that hold ``rows``, each once, ascending."""
        return np.unique(self._place[rows].astype(np.int64) // self.size)

    def rows(self, block: int) -> NDArray[np.int64]:
        """Return a block's rows; the last one may be short."""
        return self.sequence[block * self.size : (block + 1) * self.size]

    @cached_property
    def _place(self) -> NDArray[Any]:
        """The place of each row in ``sequence``, (N,)."""

        def fill(place: NDArray[Any]) -> None:
            place[self.sequence] = np.arange(len(place), dtype=place.dtype)

        count = len(self.sequence)
        dtype = permutation.row_type(count)
        if self.is_large:
            return shared("place", digest_of("", self.sequence), count, dtype, fill)
        place = np.empty(count, dtype)
        fill(place)
        return place

    @cached_property
    def digest(self) -> str:
        """A digest of all that an epoch depends on, besides its batches and random numbers."""
        return digest_of(f"{self.groups} {self.size} {self.window} ", self.sequence)

    def shuffled(self, batch_size: int, rng: RowRng) -> NDArray[np.int64]:
        """Return an epoch's rows in the order of their positions, (whole batches,)."""
        steps, share = len(self.sequence) // batch_size, batch_size // self.groups
        numbers = np.arange(-(-len(self.sequence) // self.size))
        numbers = numbers[np.argsort(rng.bits(numbers, _BLOCKS, 1)[:, 0], kind="stable")]
        epoch = np.empty((steps, self.groups, share), self.sequence.dtype)
        for group in range(self.groups):  # one at a time, for little memory
            rows = self._part(numbers, group * steps * share, (group + 1) * steps * share)
            late = rng.uniform(rows, ORDER, 1)[:, 0] * self.window * self.size
            late += np.arange(len(rows))
            epoch[:, group] = rows[permutation.order_of(late)].reshape(steps, share)
        return epoch.reshape(-1)

    def _part(self, numbers: NDArray[np.int64], begin: int, end: int) -> NDArray[np.int64]:
        """Return rows ``begin`` to ``end - 1`` of the list of all blocks, in this order."""
        length = np.full(len(numbers), self.size)
        length[numbers == len(numbers) - 1] = len(self.sequence) - (len(numbers) - 1) * self.size
        last = np.cumsum(length)
        first = int(np.searchsorted(last, begin, side="right"))
        some = numbers[first : int(np.searchsorted(last, end)) + 1]
        places = (some[:, None] * self.size + np.arange(self.size)).ravel()
        skipped = begin - int(last[first] - length[first])
        places = places[places < len(self.sequence)][skipped : skipped + end - begin]
        rows: NDArray[np.int64] = self.sequence[places]
        return rows


@dataclass(eq=False)
class Epoch:
    """The shuffled rows of an epoch, made when they are first asked for.

    Many rows are made once a machine, and hold the smallest type of numbers that they fit.
    """

    num_rows: int
    batch_size: int
    rng: RowRng
    order: BlockShuffle | Balance | None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _rows: NDArray[Any] | None = None
    _ahead: threading.Thread | None = None

    @property
    def is_large(self) -> bool:
        """Whether the rows are so many that the processes share them."""
        return self.num_rows >= permutation.LARGE

    def rows(self) -> NDArray[Any]:
        """Return the rows in the order of their positions; wait until they are made."""
        with self._lock:
            if self._rows is None:
                self._rows = self._shared() if self.is_large else self._shuffled()
            return self._rows

    def make_ahead(self) -> None:
        """Make the rows in a thread, once."""
        if self._ahead is None:
            self._ahead = threading.Thread(target=self._try, name="unmix-shuffle", daemon=True)
            self._ahead.start()

    def _try(self) -> None:
        with contextlib.suppress(Exception):  # the step that asks for the rows meets it again
            self.rows()

    def _shuffled(self) -> NDArray[Any]:
        """Return the rows sorted by a hash of (seed, epoch, row), or as ``order`` has them."""
        if self.order is None:
            return permutation.sorted_by_hash(self.rng, ORDER, self.num_rows)
        return self.order.shuffled(self.batch_size, self.rng)

    def _fill(self, out: NDArray[Any]) -> None:
        if self.order is None:
            permutation.sort_by_hash(self.rng, ORDER, out)
        else:
            out[:] = self._shuffled()

    def _shared(self) -> NDArray[Any]:
        key, length = f"{self.rng.seed}-{self.rng.epoch}-{self.num_rows}", self.num_rows
        if self.order is not None:
            key += f"-{self.batch_size}-{self.order.digest}"
            length -= length % self.batch_size
        return shared("shuffle", key, length, permutation.row_type(self.num_rows), self._fill)


@lru_cache(maxsize=4)
def _epochs(
    num_rows: int, batch_size: int, seed: int, order: BlockShuffle | Balance | None
) -> Callable[[int], Epoch]:
    """Return a function of the number of an epoch, which keeps the last two."""

    @lru_cache(maxsize=2)
    def of(epoch: int) -> Epoch:
        return Epoch(num_rows, batch_size, RowRng(seed, epoch), order)

    return of


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
        if self.num_rows >= permutation.LARGE and 2 * within >= self.steps_per_epoch:
            self._shuffle(epoch + 1).make_ahead()
        share = self._shuffle(epoch).rows()[within * self.batch_size + self.positions]
        return share.astype(np.int64, copy=False)

    def _shuffle(self, epoch: int) -> Epoch:
        order = self.blocks or self.balance
        return _epochs(self.num_rows, self.batch_size, self.seed, order)(epoch)


def all_rows(
    num_rows: int, batch_size: int, rank: int = 0, world_size: int = 1
) -> Iterator[NDArray[np.int64]]:
    """Yield every row exactly once over all ranks, in order; the last batch may be short.

    Used for evaluation. Ranks take contiguous, nearly equal shares; a share may be empty.
    """
    begin, end = (num_rows * (rank + i) // world_size for i in (0, 1))
    for first in range(begin, end, batch_size):
        yield np.arange(first, min(first + batch_size, end))
