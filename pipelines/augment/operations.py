"""Numbers that all augmenters share: operations, their constants, a row's codes."""

from __future__ import annotations

BRIGHTNESS, CONTRAST, SATURATION, HUE, GRAY = range(5)
"""Operations; the first four are those of the color jitter, in torchvision's order."""
LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue: torchvision's ``rgb_to_grayscale``."""
NEGLIGIBLE = 1e-6
"""The outermost taps of a Gaussian below this are left out."""

MOST = 5
"""Operations a row has at most."""
FLIP, SOLARIZE, COUNT, BEFORE, SLOT, OPS = range(6)
"""Columns of ``FusedPlan.codes``."""
COLUMNS = OPS + MOST
