"""Time to fetch the bytes of a batch, and to read them with and without the page cache."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.sources.fetched import remote_files
from pipelines.sources.stored import InFiles
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


@dataclass(frozen=True)
class Fetches:
    """Seconds to fetch the rows of some batches from a store, many requests at a time."""

    seconds: list[float]
    num_rows: int
    """Rows of all batches."""
    bytes_fetched: int
    bytes_needed: int
    requests: int

    @property
    def over_read(self) -> float:
        """Bytes fetched for each byte needed: pieces hold other rows too."""
        return self.bytes_fetched / self.bytes_needed

    @property
    def images_per_second(self) -> float:
        """The rate at which images can be fetched."""
        return self.num_rows / sum(self.seconds)


def measure_fetches(table: Table, batches: Iterable[NDArray[np.int64]]) -> Fetches | None:
    """Fetch batches of which little is on the disk yet; None if there are none, as of local data.

    A batch that is there already, by more than a tenth, is left out.
    """
    files, source = remote_files(table.source), table.source
    if not files:
        return None
    seconds, rows_seen, needed, fetched, requests = list[float](), 0, 0, 0, 0
    for rows in batches:
        if not isinstance(source, InFiles):
            break
        pieces = source.pieces(rows)
        before = [(file.counters.bytes_fetched, file.counters.requests) for file in files]
        began = time.perf_counter()
        with source.held(rows):
            took = time.perf_counter() - began
        after = [(file.counters.bytes_fetched, file.counters.requests) for file in files]
        came, asked = np.sum(after, axis=0) - np.sum(before, axis=0)
        if came >= 0.9 * pieces.size.sum():
            seconds.append(took)
            rows_seen, needed = rows_seen + len(rows), needed + int(pieces.size.sum())
            fetched, requests = fetched + int(came), requests + int(asked)
    return Fetches(seconds, rows_seen, fetched, needed, requests) if seconds else None


def measure_reads(table: Table, batches: Sequence[NDArray[np.int64]]) -> Reads:
    """Read each batch's rows in one thread after the page cache has dropped them, and again."""
    reads = Reads([], [], [])
    for rows in batches:
        with table.source.held(rows):  # fetching is no reading
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
