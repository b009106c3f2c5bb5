"""A detection data set: boxes, and images that are read on demand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

Pixels = NDArray[np.uint8]
Box = tuple[Sequence[float], int, bool, bool]
"""Sides (left, top, right, bottom), label, difficult, crowd."""


@dataclass(frozen=True, slots=True)
class Annotations:
    """The boxes of one image, in its pixels.

    Training uses ``difficult`` boxes (VOC) but not ``crowd`` boxes (COCO: one box around many
    objects). Evaluation ignores both: they count neither as found nor as missed, and detections
    there do not count as wrong.
    """

    boxes: NDArray[np.float32]
    """(n, 4): left, top, right, bottom; right and bottom are exclusive."""
    labels: NDArray[np.int64]
    """(n,): indices into ``DetectionDataset.classes``."""
    difficult: NDArray[np.bool_]
    crowd: NDArray[np.bool_]

    @classmethod
    def of(cls, boxes: Sequence[Box]) -> Annotations:
        """Return the annotations of some boxes; there may be none."""
        sides, labels, difficult, crowd = zip(*boxes, strict=True) if boxes else ((), (), (), ())
        return cls(
            np.array(sides, np.float32).reshape(-1, 4),
            np.array(labels, np.int64),
            np.array(difficult, np.bool_),
            np.array(crowd, np.bool_),
        )


@dataclass(frozen=True)
class DetectionDataset:
    """A split of a detection data set."""

    classes: tuple[str, ...]
    annotations: Sequence[Annotations]
    pixels: Callable[[int], Pixels]
    """Index into ``annotations`` -> image, (height, width, 3)."""

    def __len__(self) -> int:
        return len(self.annotations)

    def rows_to_learn(self) -> NDArray[np.int64]:
        """Return the rows of images with at least one box to train on."""
        return np.flatnonzero([bool((~found.crowd).any()) for found in self.annotations])

    def image(self, row: int) -> Tensor:
        """Return an image, (3, height, width) uint8."""
        return torch.tensor(self.pixels(row)).permute(2, 0, 1)

    def example(self, row: int, mirrored: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Return an image and its training target, with boxes clipped to the image.

        Labels count from 1: 0 is torchvision's background.
        """
        image, found = self.image(row), self.annotations[row]
        size = (image.shape[1], image.shape[2])
        boxes = tv_tensors.BoundingBoxes(found.boxes, format="XYXY", canvas_size=size)
        boxes = F.clamp_bounding_boxes(boxes)
        if mirrored:
            image, boxes = F.horizontal_flip(image), F.horizontal_flip(boxes)
        keep = torch.from_numpy(~found.crowd) & (boxes[:, 2:] > boxes[:, :2]).all(1)
        labels = torch.from_numpy(found.labels) + 1
        return image, {"boxes": boxes.as_subclass(Tensor)[keep], "labels": labels[keep]}


def read_image(path: Path) -> Pixels:
    """Return the pixels as stored, without EXIF rotation, which the boxes do not include.

    Raises:
        ValueError: the file is missing or not an image.
    """
    try:
        with Image.open(path) as file:
            return np.asarray(file.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def image_files(paths: Sequence[Path], split: str) -> Callable[[int], Pixels]:
    """Return a function that reads a data set's image files.

    Raises:
        ValueError: there are no files, or the first is missing.
    """
    if not paths:
        raise ValueError(f"{split} holds no images")
    if not paths[0].is_file():
        raise ValueError(f"{paths[0]} is missing: it is the first image of {split}")
    return lambda row: read_image(paths[row])
