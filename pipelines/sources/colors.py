"""Transparency flattened, colours converted to RGB or gray, and other bands refused."""

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


def check_bands(bands: int, has_alpha: bool, wanted: int) -> None:
    """Refuse an image whose bands are not what ``--in-chans`` asks for.

    Gray images become RGB and colour images gray, and transparency is a band where it makes up the
    number (RGBA for 4).

    Raises:
        ValueError: naming the flag.
    """
    stored = bands + has_alpha
    if wanted in (1, 3):
        if bands not in (1, 3):
            raise ValueError(f"{stored} bands are no gray or RGB image; --in-chans {stored}")
    elif wanted not in (bands, stored):
        raise ValueError(f"{stored} bands, where --in-chans {wanted} needs {wanted}")
