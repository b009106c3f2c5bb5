"""The range of samples of more than 8 bits, and their scaling to 8."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Range = tuple[float, float]
"""The samples that become 0 and 255."""


def to_8_bits(pixels: NDArray[np.generic], limits: Range | None, bits: int) -> NDArray[np.uint8]:
    """Scale samples linearly to 0 to 255, rounded; those outside the limits are clipped.

    Args:
        pixels: samples of any type and shape.
        limits: the samples that become 0 and 255; None: the full range of 16-bit integers, else
            the range of these samples.
        bits: bits of a sample.
    """
    if limits is None:
        if bits <= 16 and pixels.dtype.kind == "u":
            limits = (0.0, float(2**bits - 1))
        else:
            limits = set_range(float(pixels.min()), float(pixels.max()), pixels.dtype.kind == "f")
    low, high = limits
    scaled = (pixels.astype(np.float64) - low) * (255.0 / (high - low))
    return np.asarray(np.clip(np.rint(scaled), 0, 255), np.uint8)


def set_range(least: float, most: float, is_float: bool) -> Range:
    """Return the range of a data set from its smallest and largest sample.

    Integers: from 0, or from the smallest if one is negative, to the largest rounded up to
    2^k - 1. Floats: 0 to 1 if all are within it, else 0 to the largest; from the smallest if one is
    negative.
    """
    least = min(least, 0.0)
    if not is_float:
        most = float(2 ** max(int(most), 1).bit_length() - 1)
    elif least >= 0 and most <= 1:
        most = 1.0
    return least, most if most > least else least + 1.0
