"""Thumbnails of a data set's images, also as ``data:`` URIs."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.sources.table import Table


def shown(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return pixels (..., c) as RGB (..., 3): gray as gray, of many bands the first three.

    Two bands are shown as red and green.
    """
    channels = pixels.shape[-1]
    if channels == 2:
        return np.concatenate([pixels, np.zeros_like(pixels[..., :1])], axis=-1)
    return np.repeat(pixels, 3, axis=-1) if channels == 1 else pixels[..., :3]


def square(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the largest central square of an image, (h, w, c) to (s, s, c)."""
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return image[top : top + side, left : left + side]


def thumbnail(table: Table, row: int, side: int) -> Image.Image:
    """Return the central square of a row's image, at most ``side`` pixels wide."""
    image = Image.fromarray(shown(square(table.source.pixels(row))))
    return image if image.width <= side else image.resize((side, side), Image.Resampling.LANCZOS)


def data_uri(image: Image.Image, quality: int = 85) -> str:
    """Return an image as a JPEG ``data:`` URI."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
