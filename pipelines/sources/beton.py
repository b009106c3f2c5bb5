"""Rows of an FFCV file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.sources.image_file import RULES, ImageRules, decode
from pipelines.sources.stored import InFiles, Pieces
from pipelines.system.stored_file import StoredFile


@dataclass(frozen=True)
class Beton(InFiles):
    """Rows of an FFCV file: encoded bytes where ``jpg`` is set, raw pixels elsewhere."""

    file: StoredFile
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

    @property
    def path(self) -> Path:
        """The local file."""
        return self.file.path

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """The one file."""
        return (self.file,)

    def pieces(self, rows: NDArray[np.int64]) -> Pieces:
        """Return where the rows are."""
        offset, size = self.offset[rows].astype(np.int64), self.size[rows].astype(np.int64)
        return Pieces(np.zeros(len(rows), np.int64), offset, size, self.jpg[rows])

    def name(self, row: int) -> str:
        """Return the name of the image, else the file and the row's number in it."""
        if self.names:
            return self.names[row]
        return f"{self.file.title} row {row if self.number is None else self.number[row]}"

    def encoded(self, row: int) -> NDArray[np.uint8] | None:
        """Return the JPEG's bytes, or None for a raw row."""
        return self.stored(row) if self.jpg[row] else None

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """Return the row's pixels, decoded by PIL if they are encoded."""
        data = self.stored(row)
        if self.jpg[row]:
            return decode(data.tobytes(), self.name(row), self.rules)
        return data.reshape(int(self.height[row]), int(self.width[row]), -1)

    def file_order(self) -> NDArray[np.int64]:
        """Return the rows in the order of their offsets."""
        return np.argsort(self.offset, kind="stable")

    def take(self, rows: NDArray[np.int64]) -> Beton:
        """Return these rows of the same file."""
        return Beton(
            self.file,
            self.offset[rows],
            self.size[rows],
            self.jpg[rows],
            self.height[rows],
            self.width[rows],
            self.rules,
            rows if self.number is None else self.number[rows],
            [self.names[row] for row in rows] if self.names else (),
        )
