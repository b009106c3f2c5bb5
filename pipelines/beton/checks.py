"""The checks of a ``.beton``'s rows, part by part, so that no memory depends on their number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.beton.columns import Columns
from pipelines.sources.image_file import MAX_PIXELS

CHUNK = 1 << 13
"""Rows that are read and checked at a time, in the processor's cache."""

Part = Callable[[slice], NDArray[Any]]
"""Reads some records of a table in a file."""


class Sizes:
    """Each row's number of bytes, found by their offset in the allocation table.

    A file that was written by one process lists the rows in the order of their bytes, so that a
    row's entry has the row's place. Other tables are sorted first: the first entry of an offset
    counts.
    """

    def __init__(self, path: Path, entries: int, part: Part) -> None:
        if entries == 0:
            raise ValueError(f"{path}: its allocation table is empty")
        self._entries, self._part = entries, part
        self._last = -1
        self._sorted: tuple[NDArray[np.uint64], NDArray[np.uint64]] | None = None

    def of(
        self, rows: slice, pointer: NDArray[np.uint64]
    ) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """Return the sizes of ``rows``, those after the last ones, and which have none."""
        if self._sorted is None and rows.stop <= self._entries:
            here = self._part(rows)
            begins = np.ascontiguousarray(here["ptr"])
            ascending = int(begins[0]) > self._last and bool((begins[1:] > begins[:-1]).all())
            if ascending and (begins == pointer).all():
                self._last = int(begins[-1])
                return np.ascontiguousarray(here["size"]), np.zeros(len(here), np.bool_)
        if self._sorted is None:
            self._sorted = self._by_offset()
        begins, size = self._sorted
        place = np.minimum(np.searchsorted(begins, pointer), len(begins) - 1)
        return size[place], begins[place] != pointer

    def _by_offset(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        begins, size = (np.empty(self._entries, np.uint64) for _ in range(2))
        for part in parts(self._entries):
            records = self._part(part)
            begins[part], size[part] = records["ptr"], records["size"]
        order = np.argsort(begins, kind="stable")
        return begins[order], size[order]


class Checks:
    """Checks the rows of a file in turn, and fills their columns.

    What is wrong is noted, for one error that counts all rows.
    """

    def __init__(self, path: Path, span: tuple[int, int], max_label: int, channels: int | None):
        self._path, self._span = path, span
        self._max_label, self._channels = max_label, channels
        self._wrong: dict[int, tuple[str, int, int]] = {}

    def take(
        self,
        columns: Columns,
        rows: slice,
        image: NDArray[Any],
        stored: tuple[NDArray[np.bool_], NDArray[np.bool_]],
        sizes: Sizes,
    ) -> None:
        """Check the next rows, and fill their places in the columns, which have their labels.

        ``image`` is their metadata, and ``stored`` which are JPEGs, and which are raw pixels.
        """
        pointer = np.ascontiguousarray(image["data_ptr"])
        columns.offset[rows], (columns.size[rows], missing) = pointer, sizes.of(rows, pointer)
        columns.height[rows], columns.width[rows] = image["height"], image["width"]
        columns.jpg[rows], raw = stored
        size, label = columns.size[rows], columns.label[rows]
        pixels = columns.height[rows].astype(np.uint64) * columns.width[rows].astype(np.uint64)
        begin, end = self._span
        room = np.uint64(end) - np.minimum(pointer, np.uint64(end))
        outside = (pointer < begin) | (pointer > end)
        wrong: list[tuple[str, NDArray[np.bool_]]] = [
            ("no size is recorded for its data", missing),
            ("unknown storage mode", ~(columns.jpg[rows] | raw)),
            ("an image without pixels", pixels == 0),
            (f"more than {MAX_PIXELS:,} pixels", pixels > MAX_PIXELS),
            ("its data begins outside the data region", outside),
            ("its data ends outside the data region", (size == 0) | (size > room)),
            *self._raw(raw, size, pixels),
            ("its label is no class number", (label < -1) | (label > self._max_label)),
        ]
        for number, (why, bad) in enumerate(wrong):
            self._note(number, why, rows.start, bad)

    def _raw(
        self, raw: NDArray[np.bool_], size: NDArray[np.uint64], pixels: NDArray[np.uint64]
    ) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """Yield which raw rows have not their height x width x channels bytes.

        The channels are the manifest's, else those of the first raw row, else three.
        """
        if self._channels is None and raw.any():
            first = int(np.argmax(raw))
            measured, rest = divmod(int(size[first]), max(int(pixels[first]), 1))
            self._channels = 3 if rest else max(measured, 1)
        found = self._channels or 3
        why = f"raw data of another size than h x w x {found}"
        yield why, raw & (size != np.uint64(found) * pixels)

    def _note(self, number: int, why: str, begin: int, bad: NDArray[np.bool_]) -> None:
        if bad.any():
            _, first, count = self._wrong.get(number, (why, begin + int(np.argmax(bad)), 0))
            self._wrong[number] = why, first, count + int(bad.sum())

    def finish(self, columns: Columns) -> None:
        """Note the number of channels of all rows.

        Raises:
            ValueError: rows are damaged; the text has the first reason, and its first row.
        """
        if self._wrong:
            why, first, count = self._wrong[min(self._wrong)]
            where = f"row {first}" + (f", the first of {count}" if count > 1 else "")
            raise ValueError(f"{self._path}: damaged: {why} ({where})")
        columns.channels[0] = self._channels or 3


def parts(count: int) -> Iterator[slice]:
    """Yield slices of so many records, in order."""
    for begin in range(0, count, CHUNK):
        yield slice(begin, min(begin + CHUNK, count))
