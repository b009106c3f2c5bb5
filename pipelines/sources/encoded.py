"""Rows that are encoded images in memory."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.sources.image_file import ImageRules, decode


@dataclass(frozen=True)
class EncodedImages:
    """EncodedImages images in memory, which a worker process is given."""

    names: tuple[str, ...]
    data: tuple[bytes | str, ...]
    """The bytes of each, or why there are none."""
    rules: ImageRules

    def name(self, row: int) -> str:
        """Return the image's name."""
        return self.names[row]

    def encoded(self, row: int) -> NDArray[np.uint8]:
        """Return the image's bytes.

        Raises:
            ValueError: there is no image.
        """
        data = self.data[row]
        if isinstance(data, str):
            raise ValueError(data)
        return np.frombuffer(data, np.uint8)

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """Decode the image with PIL."""
        return decode(self.encoded(row).tobytes(), self.name(row), self.rules)

    def file_order(self) -> NDArray[np.int64]:
        """Return the rows in their order."""
        return np.arange(len(self.names))

    def take(self, rows: NDArray[np.int64]) -> EncodedImages:
        """Return these images only."""
        return EncodedImages(
            tuple(self.names[row] for row in rows),
            tuple(self.data[row] for row in rows),
            self.rules,
        )

    def will_need(self, rows: NDArray[np.int64]) -> None:
        """Do nothing: the images are in memory."""

    def held(self, rows: NDArray[np.int64]) -> AbstractContextManager[None]:
        """Return a context without effect."""
        return contextlib.nullcontext()

    def forget(self, rows: NDArray[np.int64]) -> None:
        """Do nothing: the images are in memory."""
