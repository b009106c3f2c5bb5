"""Color spaces of CMC: an RGB view split into lightness and color.

The numbers are those of CIE Lab under D65 and of ITU-R BT.601, as in scikit-image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from models.losses.common import full_precision
from models.settings.cmc import Space

Images = Float[Tensor, "n 3 h w"]

XYZ = (
    (0.412453 / 0.95047, 0.357580 / 0.95047, 0.180423 / 0.95047),
    (0.212671, 0.715160, 0.072169),
    (0.019334 / 1.08883, 0.119193 / 1.08883, 0.950227 / 1.08883),
)
"""Linear RGB to X, Y, Z, each relative to the white point."""
YCBCR = ((65.481, 128.553, 24.966), (-37.797, -74.203, 112.0), (112.0, -93.786, -18.214))
"""RGB in [0, 1] to Y, Cb, Cr without their offsets."""


def _weighted(rgb: Tensor, weights: Sequence[Sequence[float]]) -> list[Tensor]:
    """Return a weighted sum of the channels for each row of ``weights``, (n, h, w) each."""
    r, g, b = rgb.unbind(1)
    return [a * r + c * g + d * b for a, c, d in weights]


@full_precision
def to_lab(rgb: Images) -> Images:
    """Return L (0 to 100), a (about -86 to 98) and b (about -108 to 94) of sRGB in [0, 1]."""
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    x, y, z = (
        torch.where(t > 0.008856, t.clamp_min(0.008856) ** (1 / 3), 7.787 * t + 16 / 116)
        for t in _weighted(linear, XYZ)
    )
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


@full_precision
def to_ycbcr(rgb: Images) -> Images:
    """Return Y (16 to 235), Cb and Cr (16 to 240) of RGB in [0, 1]."""
    y, cb, cr = _weighted(rgb, YCBCR)
    return torch.stack([y + 16, cb + 128, cr + 128], 1)


@dataclass(frozen=True)
class ColorSpace:
    """A conversion from RGB in [0, 1], and the mean and deviation of its normalized channels."""

    convert: Callable[[Tensor], Tensor]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


SPACES: dict[Space, ColorSpace] = {
    "lab": ColorSpace(to_lab, (50.0, 6.025, -6.6895), (50.0, 92.208, 101.1675)),
    "ycbcr": ColorSpace(to_ycbcr, (116.151, 121.080, 132.342), (109.500, 111.855, 111.964)),
}
"""Means and deviations of the published code (Tian 2020, 1906.05849)."""


def lightness_and_color(
    view: Images, mean: Sequence[float], std: Sequence[float], space: Space
) -> tuple[Float[Tensor, "n 1 h w"], Float[Tensor, "n 2 h w"]]:
    """Convert a view and return its first channel and its other two, normalized.

    Args:
        view: RGB, normalized by ``mean`` and ``std``. Values outside of [0, 1] before that
            normalization, which mixtures and filters can produce, are clamped.
        mean: of each channel of RGB in [0, 1].
        std: deviation of each channel.
        space: a key of ``SPACES``.
    """
    into = SPACES[space]
    channels = zip(view.unbind(1), mean, std, strict=True)
    rgb = torch.stack([(x * s + m).clamp(0, 1) for x, m, s in channels], 1)
    channels = zip(into.convert(rgb).unbind(1), into.mean, into.std, strict=True)
    first, second, third = ((x - m) / s for x, m, s in channels)
    return first[:, None], torch.stack([second, third], 1)
