"""What happens to a view, in numbers: the settings, the published presets, and the draws for rows.

Every loader and finisher reads the same numbers from here; none draws its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.draws import Draws

ATTEMPTS = 10
"""Tries of RandomResizedCrop before it falls back to a centre crop, as in torchvision."""

_CROP = 2 * ATTEMPTS  # slots 0..19 draw areas and ratios, the next two the place
_FLIP, _JITTER, _GRAY, _BLUR, _SIGMA, _SOLARIZE = range(_CROP + 2, _CROP + 8)
_FACTORS = _SOLARIZE + 1  # four slots
_SHUFFLE = _FACTORS + 4  # four slots
_COUNT = _SHUFFLE + 4


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


def _moco_v1(size: int) -> tuple[View, ...]:
    view = View(size, jitter=(0.4, 0.4, 0.4, 0.4), jitter_prob=1.0, gray_first=True)
    return (view, view)


def _moco_v2(size: int) -> tuple[View, ...]:
    return (View(size, blur=0.5),) * 2


def _simclr(size: int) -> tuple[View, ...]:
    return (View(size, scale=(0.08, 1.0), jitter=(0.8, 0.8, 0.8, 0.2), blur=0.5),) * 2


def _byol(size: int) -> tuple[View, ...]:
    view = View(size, scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.2, 0.1))
    return (replace(view, blur=1.0), replace(view, blur=0.1, solarize=0.2))


def _swav(size: int) -> tuple[View, ...]:
    large = View(size, scale=(0.14, 1.0), jitter=(0.8, 0.8, 0.8, 0.2), blur=0.5)
    small = replace(large, size=max(round(size * 96 / 224), 8), scale=(0.05, 0.14))
    return (large,) * 2 + (small,) * 6


def _moco_v3(size: int) -> tuple[View, ...]:
    first, second = _byol(size)
    return (replace(first, scale=(0.2, 1.0)), replace(second, scale=(0.2, 1.0)))


def _dino(size: int) -> tuple[View, ...]:
    first, second = (replace(view, scale=(0.14, 1.0)) for view in _byol(size))
    small = replace(first, size=max(round(size * 96 / 224), 8), scale=(0.05, 0.14), blur=0.5)
    return (first, second) + (small,) * 6


def _simsiam_cifar(size: int) -> tuple[View, ...]:
    return (View(size),) * 2


def _cifar(size: int) -> tuple[View, ...]:
    return (View(size, scale=(0.08, 1.0)),) * 2


def _swav_cifar(size: int) -> tuple[View, ...]:
    return (View(size, scale=(0.14, 1.0)),) * 2


def _whitening(size: int) -> tuple[View, ...]:
    return (View(size, gray=0.1),) * 2


def _cmc(size: int) -> tuple[View, ...]:
    return (View(size, scale=(0.08, 1.0), jitter_prob=0.0, gray=0.0),)


def _insdis(size: int) -> tuple[View, ...]:
    return (replace(_moco_v1(size)[0], scale=(0.08, 1.0)),)


PRESETS: dict[str, Callable[[int], tuple[View, ...]]] = {
    "moco-v1": _moco_v1,  # He 2020, arXiv:1911.05722
    "moco-v2": _moco_v2,  # Chen 2020, arXiv:2003.04297
    "simclr": _simclr,  # Chen 2020, arXiv:2002.05709, appendix A
    "byol": _byol,  # Grill 2020, arXiv:2006.07733, table 6: two different views
    "swav": _swav,  # Caron 2020, arXiv:2006.09882: 2 large and 6 small crops
    "moco-v3": _moco_v3,  # Chen 2021, arXiv:2104.02057: BYOL's, crops from a fifth on
    "dino": _dino,  # Caron 2021, arXiv:2104.14294: BYOL's as multi-crop, ResNet-50's scales
    "simsiam-cifar": _simsiam_cifar,  # Chen 2021, arXiv:2011.10566, appendix D: MoCo-v2's, no blur
    "cifar": _cifar,  # Un-Mix's MoCo on CIFAR (Shen 2022, arXiv:2003.05438)
    "swav-cifar": _swav_cifar,  # Un-Mix's SwAV on CIFAR
    "cmc": _cmc,  # CMC's single crop, whose colours are the other view (arXiv:1906.05849)
    "insdis": _insdis,  # InsDis' single crop, in the code that came with CMC
    "whitening": _whitening,  # W-MSE's CIFAR, STL-10 and Tiny ImageNet (arXiv:2007.06346)
}


@dataclass(frozen=True, slots=True)
class Drawn:
    """What happens to n rows of one view.

    ``box`` is ``top, left, height, width`` in source pixels; ``factor`` are those of brightness,
    contrast, saturation (1: unchanged) and hue (in turns; 0: unchanged) of the rows that
    ``jitter``, applied in the order of operations ``order``; ``sigma`` is 0 without blur.
    """

    box: NDArray[np.int32]  # (n, 4)
    flip: NDArray[np.bool_]  # (n,)
    jitter: NDArray[np.bool_]  # (n,)
    factor: NDArray[np.float32]  # (n, 4)
    order: NDArray[np.int64]  # (n, 4)
    gray: NDArray[np.bool_]  # (n,)
    sigma: NDArray[np.float32]  # (n,)
    solarize: NDArray[np.bool_]  # (n,)


def draw(
    view: View,
    number: int,
    draws: Draws,
    rows: NDArray[np.int64],
    height: NDArray[np.int32],
    width: NDArray[np.int32],
) -> Drawn:
    """Draw view ``number`` of ``rows``, whose images have the given sizes, all (n,)."""
    u = draws.uniform(rows, number, _COUNT)
    factor = u[:, _FACTORS : _FACTORS + 4] * 2 - 1  # U(-1, 1)
    factor = factor * np.array(view.jitter)
    factor[:, :3] = np.maximum(factor[:, :3] + 1, 0)
    low, high = view.blur_sigma
    sigma = low + (high - low) * u[:, _SIGMA]
    return Drawn(
        box=random_resized_box(view, u, height, width),
        flip=u[:, _FLIP] < view.flip,
        jitter=u[:, _JITTER] < view.jitter_prob,
        factor=factor.astype(np.float32),
        order=np.argsort(u[:, _SHUFFLE : _SHUFFLE + 4], axis=1),
        gray=u[:, _GRAY] < view.gray,
        sigma=np.where(u[:, _BLUR] < view.blur, sigma, 0).astype(np.float32),
        solarize=u[:, _SOLARIZE] < view.solarize,
    )


def random_resized_box(
    view: View, u: NDArray[np.float64], height: NDArray[np.int32], width: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Return torchvision's RandomResizedCrop window for each row, (n, 4).

    The first of ten tries that fits the image counts; without one it is the largest centred
    window whose ratio is in range. ``u`` holds the rows' numbers in [0, 1).
    """
    tall, wide = height[:, None].astype(np.float64), width[:, None].astype(np.float64)
    low, high = view.scale
    area = tall * wide * (low + (high - low) * u[:, 0:_CROP:2])
    log_low, log_high = np.log(view.ratio)
    ratio = np.exp(log_low + (log_high - log_low) * u[:, 1:_CROP:2])
    w, h = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))  # (n, 10)
    fits = (w > 0) & (w <= wide) & (h > 0) & (h <= tall)
    first = fits.argmax(axis=1)[:, None]
    w, h = (np.take_along_axis(a, first, axis=1)[:, 0] for a in (w, h))
    top = np.floor(u[:, _CROP] * (tall[:, 0] - h + 1))
    left = np.floor(u[:, _CROP + 1] * (wide[:, 0] - w + 1))
    box = np.stack((top, left, h, w), axis=1).astype(np.int32)
    return np.where(fits.any(axis=1)[:, None], box, _centre_fallback(view, height, width))


def _centre_fallback(
    view: View, height: NDArray[np.int32], width: NDArray[np.int32]
) -> NDArray[np.int32]:
    shape = width / height
    w = np.where(shape > view.ratio[1], np.rint(height * view.ratio[1]), width)
    h = np.where(shape < view.ratio[0], np.rint(width / view.ratio[0]), height)
    w, h = np.clip(w, 1, width), np.clip(h, 1, height)
    box = np.stack(((height - h) // 2, (width - w) // 2, h, w), axis=1)
    return box.astype(np.int32)


def centre_box(
    height: NDArray[np.int32], width: NDArray[np.int32], size: int, resize: int
) -> NDArray[np.int32]:
    """Return the window of "resize the shorter side, then cut the centre", (n, 4).

    The shorter side is scaled to ``resize`` and the middle ``size`` pixels are kept, so the
    window is a centred square of ``size / resize`` of the shorter side.
    """
    side = np.maximum(np.rint(np.minimum(height, width) * (size / resize)), 1)
    box = np.stack(((height - side) // 2, (width - side) // 2, side, side), axis=1)
    return box.astype(np.int32)
