"""Rows that are decoded images in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Arrays:
    """Decoded images of one size in memory."""

    title: str
    images: NDArray[np.uint8]  # (N, h, w, 3)

    def name(self, row: int) -> str:
        """Data set and row."""
        return f"{self.title} row {row}"

    def encoded(self, row: int) -> None:
        """Nothing is encoded here."""

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """The stored image."""
        pixels: NDArray[np.uint8] = self.images[row]
        return pixels

    def file_order(self) -> NDArray[np.int64]:
        """The images as stored."""
        return np.arange(len(self.images))

    def take(self, rows: NDArray[np.int64]) -> Arrays:
        """These images alone, copied."""
        return Arrays(self.title, self.images[rows])

    def will_need(self, rows: NDArray[np.int64]) -> None:
        """Nothing: they are in memory."""

    def forget(self, rows: NDArray[np.int64]) -> None:
        """Nothing: there is no file to read them from again."""
