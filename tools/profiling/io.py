"""Time to read the bytes of a batch, with and without the system's page cache."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.sources.table import Table

PAGE = 4096


@dataclass(frozen=True)
class Reads:
    """Seconds to read the rows of some batches, each cold and then warm, and their bytes."""

    cold: list[float]
    warm: list[float]
    num_bytes: list[int]

    @property
    def was_cold(self) -> bool:
        """Whether the reads were cold: the system or a file server may keep the pages."""
        return statistics.median(self.cold) > max(self.warm)

    @property
    def bytes_per_second(self) -> float:
        """Rate of the cold reads."""
        return sum(self.num_bytes) / sum(self.cold)


def measure_reads(table: Table, batches: Sequence[NDArray[np.int64]]) -> Reads:
    """Read each batch's rows in one thread after the page cache has dropped them, and again."""
    reads = Reads([], [], [])
    for rows in batches:
        table.source.forget(rows)
        for seconds in (reads.cold, reads.warm):
            began = time.perf_counter()
            read(table, rows)
            seconds.append(time.perf_counter() - began)
        reads.num_bytes.append(size_of(table, rows))
    return reads


def stored(table: Table, row: int) -> NDArray[np.uint8]:
    """Return a row's bytes as they are stored, (bytes,)."""
    data = table.source.encoded(row)
    return table.source.pixels(row).reshape(-1) if data is None else data


def read(table: Table, rows: NDArray[np.int64]) -> int:
    """Read the bytes of the rows by touching each page; return the sum of the touched bytes."""
    return sum(int(stored(table, row)[::PAGE].sum()) for row in rows.tolist())


def size_of(table: Table, rows: NDArray[np.int64]) -> int:
    """Return the number of bytes of the rows."""
    return sum(len(stored(table, row)) for row in rows.tolist())
