"""What every detection data set is given as: pictures that are read when asked for, and boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Objects:
    """The boxes of one picture, in its pixels.

    A ``difficult`` one (VOC) is learned from, a ``crowd`` (COCO: one box round many) is not; in
    evaluation neither counts as found or missed, and what is found there is not counted as wrong.
    """

    boxes: NDArray[np.float32]
    """(n, 4): left, top, right, bottom; right and bottom are where the next pixel begins."""
    labels: NDArray[np.int64]
    """(n,): places in ``Examples.classes``."""
    difficult: NDArray[np.bool_]
    crowd: NDArray[np.bool_]

    def to_learn(self, height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return boxes (m, 4) and labels (m,) for training, cut off at the picture's edges."""
        boxes = self.boxes.clip(0, np.array([width, height, width, height], np.float32))
        keep = ~self.crowd & (boxes[:, 2:] > boxes[:, :2]).all(1)
        return boxes[keep], self.labels[keep]


@dataclass(frozen=True)
class Examples:
    """A split of a detection data set."""

    classes: tuple[str, ...]
    names: Sequence[str]
    """What messages call a picture."""
    objects: Sequence[Objects]
    pixels: Callable[[int], Pixels]
    """The picture at a place of ``names``: (height, width, 3)."""

    def __len__(self) -> int:
        return len(self.names)

    def with_objects(self) -> NDArray[np.int64]:
        """Return the places of the pictures that hold a box to learn from."""
        has = [bool((~objects.crowd).any()) for objects in self.objects]
        return np.flatnonzero(has)


def objects_of(rows: Sequence[tuple[Sequence[float], int, bool, bool]]) -> Objects:
    """Return the objects of (box, label, difficult, crowd) rows; there may be none."""
    return Objects(
        np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[1] for row in rows], np.int64),
        np.array([row[2] for row in rows], np.bool_),
        np.array([row[3] for row in rows], np.bool_),
    )


def read_picture(path: Path) -> Pixels:
    """Return the pixels as they are stored: boxes are given for those, whatever EXIF says.

    Raises:
        ValueError: the file is missing or no image.
    """
    try:
        with Image.open(path) as file:
            return np.asarray(file.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
