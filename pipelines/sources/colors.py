"""Transparency flattened, and colours converted to RGB or gray."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor


def as_image(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return 8-bit pixels (h, w, 1 to 4) as gray, gray with alpha, RGB or RGBA."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def to_channels(image: Image.Image, channels: int, background: str) -> NDArray[np.uint8]:
    """Flatten transparency, then convert to RGB or luma: (h, w, 3 or 1)."""
    if image.has_transparency_data:
        image = flattened(image, background)
    pixels = np.asarray(image.convert("RGB" if channels == 3 else "L"))
    return pixels if channels == 3 else pixels[..., None]


def flattened(image: Image.Image, background: str) -> Image.Image:
    """Composite an image with transparency on a colour; the result is RGB."""
    front = image.convert("RGBA")
    back = Image.new("RGBA", front.size, ImageColor.getrgb(background))
    return Image.alpha_composite(back, front).convert("RGB")
