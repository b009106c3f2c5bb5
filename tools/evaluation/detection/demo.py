"""The embedded detection set ``demo``: patches of photographs pasted on photographs.

The place and the photograph of each patch are drawn, so both are known exactly. A picture is a
pure function of (split, index). Patches and backgrounds come from the left three quarters of the
photographs for training and from the rest for validation, as in ``pipelines/sources/photos.py``.
No pixel of a validation picture was used in training, by this detector or by a run on ``photos``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.sources.photos import (
    CONTRAST,
    EXPOSURE,
    TRAIN_SHARE,
    WHITE_BALANCE,
    find_photographs,
)
from tools.evaluation.detection.dataset import Annotations, DetectionDataset, Pixels

CLASSES = ("brick", "coins", "grass", "gravel", "ihc")
"""The photographs that patches are cut from; the others are backgrounds."""
SEED = 51_966
CANVAS = 256
"""Side of a picture in pixels."""
PATCH = (48, 120)
"""Range of a patch's width and height in pixels."""
SCALES = (0.75, 1.5)
"""Pixels of the photograph for each pixel of the patch, as far as the photograph allows."""
MOST = 4
"""Largest number of patches in a picture; there is at least one, and patches do not overlap."""
TRIES = 20
PICTURES = {"train": 2000, "val": 60}

Split = Literal["train", "val"]
Window = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Patch:
    """A piece of a photograph, with its place on the canvas and its lighting."""

    label: int
    box: tuple[int, int, int, int]
    """Left, top, right, bottom on the canvas."""
    window: Window
    """Window that is cut, in pixels of the photograph's region."""
    mirrored: bool
    gain: tuple[float, float, float]
    contrast: float


@dataclass(frozen=True, slots=True)
class Layout:
    """The parts of a picture."""

    background: str
    window: Window
    patches: tuple[Patch, ...]


def demo(split: Split, pictures: int | None = None) -> DetectionDataset:
    """Return a split, or its first pictures.

    Raises:
        ValueError: a photograph is missing from the installed packages.
    """
    layouts = [lay_out(split, i) for i in range(PICTURES[split] if pictures is None else pictures)]
    return DetectionDataset(
        CLASSES,
        [
            Annotations.of([(patch.box, patch.label, False, False) for patch in layout.patches])
            for layout in layouts
        ],
        lambda row: paint(split, layouts[row]),
    )


def lay_out(split: Split, index: int) -> Layout:
    """Draw the parts of a picture."""
    rng = np.random.default_rng([SEED, list(PICTURES).index(split), index])
    backgrounds = [name for name in regions(split) if name not in CLASSES]
    background = backgrounds[rng.integers(len(backgrounds))]
    region = regions(split)[background]
    side = min(region.size) * rng.uniform(0.6, 1.0)
    patches: list[Patch] = []
    for _ in range(rng.integers(1, MOST + 1)):
        box = _free_box([patch.box for patch in patches], rng)
        if box is not None:
            patches.append(_draw_patch(split, box, rng))
    return Layout(background, _window(region, side, side, rng), tuple(patches))


def paint(split: Split, layout: Layout) -> Pixels:
    """Return the picture, (CANVAS, CANVAS, 3)."""
    canvas = _cut(regions(split)[layout.background], layout.window, (CANVAS, CANVAS)).copy()
    for patch in layout.patches:
        left, top, right, bottom = patch.box
        region = regions(split)[CLASSES[patch.label]]
        piece = _cut(region, patch.window, (right - left, bottom - top))
        piece = piece[:, ::-1] if patch.mirrored else piece
        canvas[top:bottom, left:right] = _light(piece, patch)
    return canvas


@lru_cache(maxsize=2)
def regions(split: Split) -> dict[str, Image.Image]:
    """Return the part of each photograph that belongs to a split, by the photograph's name."""
    parts = {}
    for name, path in find_photographs().items():
        with Image.open(path) as file:
            photograph = file.convert("RGB")
        edge = round(photograph.width * TRAIN_SHARE)
        left, right = (0, edge) if split == "train" else (edge, photograph.width)
        parts[name] = photograph.crop((left, 0, right, photograph.height))
    return parts


def _free_box(
    taken: list[tuple[int, int, int, int]], rng: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """Draw a box that overlaps none of ``taken``; None if ``TRIES`` attempts found no room."""
    for _ in range(TRIES):
        width, height = (int(side) for side in rng.integers(PATCH[0], PATCH[1] + 1, 2))
        left = int(rng.integers(0, CANVAS - width + 1))
        top = int(rng.integers(0, CANVAS - height + 1))
        right, bottom = left + width, top + height
        if all(left >= r or right <= x or top >= b or bottom <= y for x, y, r, b in taken):
            return left, top, right, bottom
    return None


def _draw_patch(split: Split, box: tuple[int, int, int, int], rng: np.random.Generator) -> Patch:
    label = int(rng.integers(len(CLASSES)))
    region = regions(split)[CLASSES[label]]
    width, height = box[2] - box[0], box[3] - box[1]
    largest = min(SCALES[1], region.width / width, region.height / height)
    scale = math.exp(rng.uniform(math.log(min(SCALES[0], largest)), math.log(largest)))
    gain = np.exp(rng.normal(0, EXPOSURE) + rng.normal(0, WHITE_BALANCE, 3))
    return Patch(
        label=label,
        box=box,
        window=_window(region, scale * width, scale * height, rng),
        mirrored=bool(rng.random() < 0.5),
        gain=(float(gain[0]), float(gain[1]), float(gain[2])),
        contrast=rng.uniform(*CONTRAST),
    )


def _window(region: Image.Image, width: float, height: float, rng: np.random.Generator) -> Window:
    """Draw the place of a window of this size in a region."""
    left = rng.uniform(0, max(region.width - width, 0))
    top = rng.uniform(0, max(region.height - height, 0))
    return left, top, min(left + width, region.width), min(top + height, region.height)


def _cut(region: Image.Image, window: Window, size: tuple[int, int]) -> Pixels:
    return np.asarray(region.resize(size, Image.Resampling.BICUBIC, box=window))


def _light(piece: Pixels, patch: Patch) -> Pixels:
    """Scale the contrast about the piece's mean, then multiply each channel by its gain."""
    pixels: NDArray[np.float64] = piece.astype(np.float64)
    mean = pixels.mean()
    lit = ((pixels - mean) * patch.contrast + mean) * np.array(patch.gain)
    return np.clip(np.rint(lit), 0, 255).astype(np.uint8)
