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
        """The file's path."""
        return str(self.root / self.names[row])

    def encoded(self, row: int) -> NDArray[np.uint8]:
        """The file's bytes."""
        return np.fromfile(self.root / self.names[row], np.uint8)

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """The file decoded by PIL."""
        return decode_with_pil(self.encoded(row).tobytes(), self.name(row))

    def file_order(self) -> NDArray[np.int64]:
        """The files as listed."""
        return np.arange(len(self.names))

    def take(self, rows: NDArray[np.int64]) -> Files:
        """These files alone."""
        return Files(self.root, [self.names[row] for row in rows])

    def will_need(self, rows: NDArray[np.int64]) -> None:
        """Ask for the files' bytes."""
        for row in rows:
            page_cache.will_need(self.root / self.names[row])

    def forget(self, rows: NDArray[np.int64]) -> None:
        """Give up the files' bytes."""
        for row in rows:
            page_cache.forget(self.root / self.names[row])
