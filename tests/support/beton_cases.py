"""Rows for .beton files."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from pipelines.beton.format import Sample


def picture(row: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(row).integers(0, 256, (height, width, 3), np.uint8)


def jpeg(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=90)
    return out.getvalue()


def make_samples(count: int, height: int = 20, width: int = 30) -> list[Sample]:
    """Every second row is a JPEG."""
    images = [picture(row, height, width) for row in range(count)]
    return [
        Sample(jpeg(x) if row % 2 else x.tobytes(), height, width, bool(row % 2), row % 3)
        for row, x in enumerate(images)
    ]
