"""Rows of an FFCV file."""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.sources.image_file import decode_with_pil
from pipelines.system import page_cache


@dataclass(frozen=True)
class Beton:
    """Rows of an FFCV file: ``jpg`` ones hold encoded bytes, the others raw pixels."""

    path: Path
    offset: NDArray[np.uint64]  # (N,) of the row's bytes in the file
    size: NDArray[np.uint64]  # (N,) their number
    jpg: NDArray[np.bool_]  # (N,)
    height: NDArray[np.int32] = field(repr=False)
    width: NDArray[np.int32] = field(repr=False)

    @cached_property
    def bytes(self) -> NDArray[np.uint8]:
        """The whole file, memory-mapped read-only."""
        return np.frombuffer(self._map, np.uint8)

    @cached_property
    def _map(self) -> mmap.mmap:
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _row(self, row: int) -> NDArray[np.uint8]:
        begin = int(self.offset[row])
        return np.asarray(self.bytes[begin : begin + int(self.size[row])])

    def name(self, row: int) -> str:
        """File and row."""
        return f"{self.path} row {row}"

    def encoded(self, row: int) -> NDArray[np.uint8] | None:
        """The JPEG's bytes, or None for a raw row."""
        return self._row(row) if self.jpg[row] else None

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """The row's pixels, decoded by PIL if need be."""
        data = self._row(row)
        if self.jpg[row]:
            return decode_with_pil(data.tobytes(), self.name(row))
        return data.reshape(int(self.height[row]), int(self.width[row]), 3)

    def file_order(self) -> NDArray[np.int64]:
        """The rows by their place in the file."""
        return np.argsort(self.offset, kind="stable")

    def take(self, rows: NDArray[np.int64]) -> Beton:
        """These rows of the same file."""
        return Beton(
            self.path,
            self.offset[rows],
            self.size[rows],
            self.jpg[rows],
            self.height[rows],
            self.width[rows],
        )

    def ranges(self, rows: NDArray[np.int64]) -> page_cache.Ranges:
        """Where the rows' bytes are in the file, neighbours joined."""
        return page_cache.joined(self.offset[rows], self.size[rows])

    def will_need(self, rows: NDArray[np.int64]) -> None:
        """Ask for the rows' bytes, neighbours in the file at once."""
        page_cache.will_need(self.path, self.ranges(rows))

    def forget(self, rows: NDArray[np.int64]) -> None:
        """Give up the pages that hold the rows, here and in the system.

        The system keeps what is mapped: by this table, where it is let go first, or by another.
        """
        ranges = self.ranges(rows)
        for begin, end in page_cache.whole_pages(ranges).tolist():
            self._map.madvise(mmap.MADV_DONTNEED, begin, end - begin)
        page_cache.forget(self.path, ranges)
