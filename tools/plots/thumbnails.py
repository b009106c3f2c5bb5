"""Thumbnails of a data set's images, also as ``data:`` URIs."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.sources.table import Table


def square(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the largest central square of an image, (h, w, 3) to (s, s, 3)."""
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return image[top : top + side, left : left + side]


def thumbnail(table: Table, row: int, side: int) -> Image.Image:
    """Return the central square of a row's image, at most ``side`` pixels wide."""
    image = Image.fromarray(square(table.source.pixels(row)))
    return image if image.width <= side else image.resize((side, side), Image.Resampling.LANCZOS)


def data_uri(image: Image.Image, quality: int = 85) -> str:
    """Return an image as a JPEG ``data:`` URI."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
