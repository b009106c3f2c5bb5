"""Decoders: encoded images and boxes to uint8 crops, by ``memory``, ``ffcv`` or ``dali``.

All three return the same crops (within 2 grey levels on average) for the same rows and boxes,
decode each distinct image once per call, and fall back to PIL for a row that they cannot read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class MissingPackage(ValueError):
    """A loader's package is not installed; the text names it and the fix."""


@dataclass(frozen=True, slots=True)
class Crops:
    """The windows of one view: crop ``j`` is ``box[j]`` of image ``rows[take[j]]``, resized.

    ``size`` is the side of the square output in pixels; ``box`` is (k, 4) int32 of
    ``top, left, height, width`` in the upright image's pixels.
    """

    size: int
    take: NDArray[np.int64]  # (k,) into the rows of the call
    box: NDArray[np.int32]  # (k, 4)


@runtime_checkable
class Decoder(Protocol):
    """Decodes and crops rows. ``decodes`` and ``replaced`` count images since its creation."""

    decodes: int
    replaced: int
    bad_rows: set[int]
    """Rows whose image could not be read, so that another row's took its place."""

    def __call__(self, rows: NDArray[np.int64], crops: Sequence[Crops]) -> list[Tensor]:
        """Decode each of the distinct ``rows`` once; return uint8 (k, size, size, 3) for each view.

        Raises:
            BadImage: PIL cannot read an image either, and ``on_bad`` is "stop".
        """

    def close(self) -> None:
        """Release threads and pipelines."""
