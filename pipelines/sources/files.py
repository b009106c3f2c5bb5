"""Rows that are image files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.sources.image_file import decode_with_pil
from pipelines.system import page_cache


@dataclass(frozen=True)
class Files:
    """Image files below ``root``."""

    root: Path
    names: Sequence[str]

    def name(self, row: int) -> str:
        """Return the file's path."""
        return str(self.root / self.names[row])

    def encoded(self, row: int) -> NDArray[np.uint8]:
        """Return the file's bytes."""
        return np.fromfile(self.root / self.names[row], np.uint8)

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """Decode the file with PIL."""
        return decode_with_pil(self.encoded(row).tobytes(), self.name(row))

    def file_order(self) -> NDArray[np.int64]:
        """Return the rows in the order of the list."""
        return np.arange(len(self.names))

    def take(self, rows: NDArray[np.int64]) -> Files:
        """Return these files only."""
        return Files(self.root, [self.names[row] for row in rows])

    def will_need(self, rows: NDArray[np.int64]) -> None:
        """Request the files' bytes."""
        for row in rows:
            page_cache.will_need(self.root / self.names[row])

    def forget(self, rows: NDArray[np.int64]) -> None:
        """Drop the files' bytes from the page cache."""
        for row in rows:
            page_cache.forget(self.root / self.names[row])
