"""What happens to a view, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class View:
    """One random view of an image. Probabilities are per row; 0 switches an operation off."""

    size: int
    """Side of the square result in pixels."""
    scale: tuple[float, float] = (0.2, 1.0)
    """Share of the image's area that the crop covers."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of the crop, drawn uniformly in its logarithm."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    """Strength of brightness, contrast, saturation and hue, applied in random order."""
    jitter_prob: float = 0.8
    """Probability of the colour jitter."""
    gray: float = 0.2
    """Probability of grayscale."""
    gray_first: bool = False
    """Grayscale before the jitter (MoCo v1) instead of after it."""
    blur: float = 0.0
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's standard deviation in pixels."""
    solarize: float = 0.0
    """Probability of inverting all values from one half up."""
