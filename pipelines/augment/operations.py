"""Constants that all augmenters share: operations, their parameters, columns of a row's codes."""

from __future__ import annotations

BRIGHTNESS, CONTRAST, SATURATION, HUE, GRAY = range(5)
"""Operations; the first four are those of the color jitter, in torchvision's order."""
LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue: torchvision's ``rgb_to_grayscale``."""
NEGLIGIBLE = 1e-6
"""Outer taps of a Gaussian below this are left out."""

MOST = 5
"""Largest number of operations of a row."""
ORIENTATION, SOLARIZE, COUNT, BEFORE, SLOT, OPS = range(6)
"""Columns of ``FusedPlan.codes``."""
MIRRORED, UPSIDE_DOWN, TRANSPOSED = 1, 2, 4
"""Bits of the column ORIENTATION; flips come before the transposition."""
COLUMNS = OPS + MOST
