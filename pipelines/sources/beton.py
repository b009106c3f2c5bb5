"""Rows of an FFCV file."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.sources.image_file import RULES, ImageRules, decode
from pipelines.system import page_cache


@dataclass(frozen=True)
class Beton:
    """Rows of an FFCV file: encoded bytes where ``jpg`` is set, raw pixels elsewhere."""

    path: Path
    offset: NDArray[np.uint64]  # (N,) offset of the row's bytes in the file
    size: NDArray[np.uint64]  # (N,) number of bytes
    jpg: NDArray[np.bool_]  # (N,)
    height: NDArray[np.int32] = field(repr=False)
    width: NDArray[np.int32] = field(repr=False)
    rules: ImageRules = RULES
    """What the files became when the .beton was written."""
    number: NDArray[np.int64] | None = field(default=None, repr=False)
    """(N,) the rows' numbers in the file, where they are not 0 to N - 1."""
    names: Sequence[str] = field(default=(), repr=False)
    """Names of the images that the file was converted from, if they are known."""

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
        """Return the name of the image, else the file and the row's number in it."""
        if self.names:
            return self.names[row]
        return f"{self.path} row {row if self.number is None else self.number[row]}"

    def encoded(self, row: int) -> NDArray[np.uint8] | None:
        """Return the JPEG's bytes, or None for a raw row."""
        return self._row(row) if self.jpg[row] else None

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """Return the row's pixels, decoded by PIL if they are encoded."""
        data = self._row(row)
        if self.jpg[row]:
            return decode(data.tobytes(), self.name(row), self.rules)
        return data.reshape(int(self.height[row]), int(self.width[row]), -1)

    def file_order(self) -> NDArray[np.int64]:
        """Return the rows in the order of their offsets."""
        return np.argsort(self.offset, kind="stable")

    def take(self, rows: NDArray[np.int64]) -> Beton:
        """Return these rows of the same file."""
        return Beton(
            self.path,
            self.offset[rows],
            self.size[rows],
            self.jpg[rows],
            self.height[rows],
            self.width[rows],
            self.rules,
            rows if self.number is None else self.number[rows],
            [self.names[row] for row in rows] if self.names else (),
        )

    def ranges(self, rows: NDArray[np.int64]) -> page_cache.Ranges:
        """Return the byte ranges of the rows in the file, adjacent ones joined."""
        return page_cache.joined(self.offset[rows], self.size[rows])

    def will_need(self, rows: NDArray[np.int64]) -> None:
        """Request the rows' bytes, adjacent ones together."""
        page_cache.will_need(self.path, self.ranges(rows))

    def forget(self, rows: NDArray[np.int64]) -> None:
        """Drop the pages that hold the rows, from this mapping and from the page cache.

        The system keeps mapped pages, so this mapping drops them first; another mapping of the file
        still holds them.
        """
        ranges = self.ranges(rows)
        for begin, end in page_cache.whole_pages(ranges).tolist():
            self._map.madvise(mmap.MADV_DONTNEED, begin, end - begin)
        page_cache.forget(self.path, ranges)
