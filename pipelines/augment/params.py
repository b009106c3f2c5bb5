"""Random parameters of a view, row by row.

All decoders and augmenters use these numbers; none draws its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.rng import RowRng
from pipelines.views import MOST_LEVEL, View

ATTEMPTS = 10
"""Attempts of RandomResizedCrop before it falls back to a centre crop, as in torchvision."""

_CROP = 2 * ATTEMPTS  # slots 0..19 draw areas and ratios, the next two the place
_FLIP, _JITTER, _GRAY, _BLUR, _SIGMA, _SOLARIZE = range(_CROP + 2, _CROP + 8)
_FACTORS = _SOLARIZE + 1  # four slots
_SHUFFLE = _FACTORS + 4  # four slots
_COUNT = _SHUFFLE + 4
_VERTICAL, _ROTATE, _QUARTERS = range(_COUNT, _COUNT + 3)  # after the slots of all older runs
_COUNT_TURNED = _COUNT + 3  # drawn for views that are turned
_RAND, _PER_OPERATION = _COUNT_TURNED, 5  # choice, whether, two for the level, direction
RAND_OPERATIONS = 15
"""Operations of RandAugment (``pipelines.augment.randaugment``)."""


@dataclass(frozen=True, slots=True)
class ViewParams:
    """Augmentation parameters of n rows of one view.

    ``box`` is ``top, left, height, width`` in source pixels. ``factor`` holds the factors of
    brightness, contrast and saturation (1: unchanged) and the shift of hue (in turns; 0:
    unchanged). They apply to rows where ``jitter`` is set, in the sequence ``order`` of operations.
    ``sigma`` is 0 without blur. ``quarter_turns`` are counterclockwise and follow both flips.
    ``rand_ops`` are RandAugment's operations in order (-1: not applied), and ``rand_levels`` their
    levels, whose signs are directions.
    """

    box: NDArray[np.int32]  # (n, 4)
    flip: NDArray[np.bool_]  # (n,)
    jitter: NDArray[np.bool_]  # (n,)
    factor: NDArray[np.float32]  # (n, 4)
    order: NDArray[np.int64]  # (n, 4)
    gray: NDArray[np.bool_]  # (n,)
    sigma: NDArray[np.float32]  # (n,)
    solarize: NDArray[np.bool_]  # (n,)
    vertical_flip: NDArray[np.bool_]  # (n,)
    quarter_turns: NDArray[np.int64]  # (n,), 0 to 3
    rand_ops: NDArray[np.int64]  # (n, operations)
    rand_levels: NDArray[np.float32]  # (n, operations)

    def orientation(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which rows are mirrored, turned upside down, and then transposed, (n,) each.

        These three make all eight orientations. A quarter turn counterclockwise transposes the
        mirror image.
        """
        turns = self.quarter_turns
        mirrored = self.flip ^ np.isin(turns, (1, 2))
        upside_down = self.vertical_flip ^ np.isin(turns, (2, 3))
        return mirrored, upside_down, turns % 2 == 1


def draw_params(
    view: View,
    number: int,
    rng: RowRng,
    rows: NDArray[np.int64],
    height: NDArray[np.int32],
    width: NDArray[np.int32],
) -> ViewParams:
    """Draw the parameters of view ``number`` for ``rows`` of the given image sizes, all (n,)."""
    turned = bool(view.vertical_flip or view.rotate90)
    rounds = int(view.rand_augment[0])
    count = _RAND + _PER_OPERATION * rounds if rounds else _COUNT_TURNED if turned else _COUNT
    u = rng.uniform(rows, number, count)
    vertical, quarters = _turns(view, u) if turned else _no_turns(len(rows))
    factor = u[:, _FACTORS : _FACTORS + 4] * 2 - 1  # U(-1, 1)
    factor = factor * np.array(view.jitter)
    factor[:, :3] = np.maximum(factor[:, :3] + 1, 0)
    low, high = view.blur_sigma
    sigma = low + (high - low) * u[:, _SIGMA]
    ops, levels = _rand_augment(view, u[:, _RAND:].reshape(len(rows), rounds, _PER_OPERATION))
    return ViewParams(
        box=random_resized_box(view, u, height, width),
        flip=u[:, _FLIP] < view.flip,
        jitter=u[:, _JITTER] < view.jitter_prob,
        factor=factor.astype(np.float32),
        order=np.argsort(u[:, _SHUFFLE : _SHUFFLE + 4], axis=1),
        gray=u[:, _GRAY] < view.gray,
        sigma=np.where(u[:, _BLUR] < view.blur, sigma, 0).astype(np.float32),
        solarize=u[:, _SOLARIZE] < view.solarize,
        vertical_flip=vertical,
        quarter_turns=quarters,
        rand_ops=ops,
        rand_levels=levels,
    )


def _rand_augment(
    view: View, u: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the operations and levels of uniform numbers (n, operations, 5)."""
    if u.size == 0:
        return np.zeros(u.shape[:2], np.int64), np.zeros(u.shape[:2], np.float32)
    choice, fires, radius, angle, direction = np.moveaxis(u, 2, 0)
    _, level, deviation = view.rand_augment
    normal = np.sqrt(-2 * np.log1p(-radius)) * np.cos(2 * np.pi * angle)  # Box and Muller's
    level = np.clip(level + deviation * normal, 0, MOST_LEVEL)
    ops = np.where(fires < 0.5, (RAND_OPERATIONS * choice).astype(np.int64), -1)
    return ops, np.where(direction < 0.5, -level, level).astype(np.float32)


def _turns(view: View, u: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    quarters = np.floor(4 * u[:, _QUARTERS]).astype(np.int64)
    return u[:, _VERTICAL] < view.vertical_flip, quarters * (u[:, _ROTATE] < view.rotate90)


def _no_turns(num_rows: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    return np.zeros(num_rows, np.bool_), np.zeros(num_rows, np.int64)


def random_resized_box(
    view: View, u: NDArray[np.float64], height: NDArray[np.int32], width: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Return torchvision's RandomResizedCrop window for each row, (n, 4).

    The first of ten attempts that fits the image counts; if none does, the window is the largest
    centred one with a ratio in range. ``u`` holds the rows' uniform numbers in [0, 1).
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
    return np.where(fits.any(axis=1)[:, None], box, _center_fallback(view, height, width))


def _center_fallback(
    view: View, height: NDArray[np.int32], width: NDArray[np.int32]
) -> NDArray[np.int32]:
    shape = width / height
    w = np.where(shape > view.ratio[1], np.rint(height * view.ratio[1]), width)
    h = np.where(shape < view.ratio[0], np.rint(width / view.ratio[0]), height)
    w, h = np.clip(w, 1, width), np.clip(h, 1, height)
    box = np.stack(((height - h) // 2, (width - w) // 2, h, w), axis=1)
    return box.astype(np.int32)


def center_box(
    height: NDArray[np.int32], width: NDArray[np.int32], size: int, resize: int
) -> NDArray[np.int32]:
    """Return the window equivalent to resizing the shorter side and a centre crop, (n, 4).

    The shorter side is scaled to ``resize`` and the middle ``size`` pixels are kept, so the
    window is a centred square of ``size / resize`` of the shorter side.
    """
    side = np.maximum(np.rint(np.minimum(height, width) * (size / resize)), 1)
    box = np.stack(((height - side) // 2, (width - side) // 2, side, side), axis=1)
    return box.astype(np.int32)
