"""Rows of parquet files, which are read in sequence.

A row has no address: its bytes are part of a compressed page, so all rows of its row group that
come before it are read with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.sources.encoded import EncodedImages
from pipelines.sources.image_file import RULES, ImageRules, decode
from pipelines.sources.parquet_file import Layout, read_cells
from pipelines.sources.parquet_schema import Columns
from pipelines.sources.table import Table

PART_ROWS = 32
PART_BYTES = 1 << 19
"""Rows and bytes that a worker is given at a time, so that many workers do not fill the memory."""


@dataclass(frozen=True)
class Parquet:
    """Rows of parquet files; any can be read, but only in their order without reading others."""

    layout: Layout
    columns: Columns
    number: NDArray[np.int64]
    """(N,) the rows' numbers in the files laid end to end."""
    rules: ImageRules = RULES
    examples: dict[int, bytes] = field(default_factory=dict, repr=False)
    """The bytes of some rows, by their numbers in the files."""

    def name(self, row: int) -> str:
        """Return the file and the row's number in it."""
        return self.layout.name(int(self.number[row]))

    def encoded(self, row: int) -> NDArray[np.uint8]:
        """Return the image's bytes; all rows of its row group that come before it are read."""
        number = int(self.number[row])
        data: bytes | str | None = self.examples.get(number)
        if data is None:
            ((_, data),) = read_cells(self.layout, self.columns, self.number[[row]])
        return EncodedImages((self.name(row),), (data,), self.rules).encoded(0)

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """Decode the image with PIL."""
        return decode(self.encoded(row).tobytes(), self.name(row), self.rules)

    def file_order(self) -> NDArray[np.int64]:
        """Return the rows in the order of the files."""
        return np.argsort(self.number, kind="stable")

    def take(self, rows: NDArray[np.int64]) -> Parquet:
        """Return these rows of the same files."""
        return replace(self, number=self.number[rows])

    def will_need(self, rows: NDArray[np.int64]) -> None:
        """Do nothing: the reader is ahead of its caller by itself."""

    def held(self, rows: NDArray[np.int64]) -> AbstractContextManager[None]:
        """Return a context without effect."""
        return contextlib.nullcontext()

    def forget(self, rows: NDArray[np.int64]) -> None:
        """Do nothing: a converted file is not read again."""

    @property
    def is_ordered(self) -> bool:
        """Whether the rows are in the order of the files, so that they can be read."""
        return bool((np.diff(self.number) > 0).all())

    def example_rows(self) -> NDArray[np.int64]:
        """Return the rows whose bytes are at hand, (n,); the first row if none is."""
        known = np.fromiter(self.examples, np.int64, len(self.examples))
        rows = np.flatnonzero(np.isin(self.number, known))
        return rows if len(rows) else np.zeros(1, np.int64)


def split_parquet(table: Table) -> Iterator[Table]:
    """Yield parts of a table of parquet rows with their bytes in memory, small enough to send.

    The rows are in the order of the files, whatever the table's is.

    Raises:
        ValueError: a file is damaged.
    """
    source = table.source
    assert isinstance(source, Parquet)
    order = None if source.is_ordered else source.file_order()
    numbers = source.number if order is None else source.number[order]
    data: list[bytes | str] = []
    begin = size = 0

    def part() -> Table:
        rows = np.arange(begin, begin + len(data))
        return _part(table, source, rows if order is None else order[rows], data)

    for _, cell in read_cells(source.layout, source.columns, numbers):
        data.append(cell)
        size += len(cell)
        if len(data) == PART_ROWS or size >= PART_BYTES:
            yield part()
            begin, size, data = begin + len(data), 0, []
    if data:
        yield part()


def _part(
    table: Table, source: Parquet, rows: NDArray[np.int64], data: Sequence[bytes | str]
) -> Table:
    names = tuple(source.name(row) for row in rows.tolist())
    held = EncodedImages(names, tuple(data), source.rules)
    return Table(table.label[rows], table.height[rows], table.width[rows], held)
