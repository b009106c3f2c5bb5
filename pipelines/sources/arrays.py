"""Rows that are decoded images in memory."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.sources.image_file import ImageRules


@dataclass(frozen=True)
class Arrays:
    """Decoded images of one size in memory."""

    title: str
    images: NDArray[np.uint8]  # (N, h, w, channels)
    number: NDArray[np.int64] | None = None
    """(N,) the rows' numbers in the data set, where they are not 0 to N - 1."""

    @property
    def rules(self) -> ImageRules:
        """The channels of the array."""
        return ImageRules(channels=self.images.shape[3])

    def name(self, row: int) -> str:
        """Return the data set's name and the row's number in it."""
        return f"{self.title} row {row if self.number is None else self.number[row]}"

    def encoded(self, row: int) -> None:
        """Return None: the rows are stored as pixels."""

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """Return the stored image."""
        pixels: NDArray[np.uint8] = self.images[row]
        return pixels

    def file_order(self) -> NDArray[np.int64]:
        """Return the rows in the order of the array."""
        return np.arange(len(self.images))

    def take(self, rows: NDArray[np.int64]) -> Arrays:
        """Return these images only, copied."""
        number = rows if self.number is None else self.number[rows]
        return Arrays(self.title, self.images[rows], number)

    def will_need(self, rows: NDArray[np.int64]) -> None:
        """Do nothing: the images are in memory."""

    def held(self, rows: NDArray[np.int64]) -> AbstractContextManager[None]:
        """Return a context without effect."""
        return contextlib.nullcontext()

    def forget(self, rows: NDArray[np.int64]) -> None:
        """Do nothing: there is no file from which to read the images again."""
