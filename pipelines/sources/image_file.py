"""Image files decoded by Pillow to upright 8-bit RGB."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 178_956_970
"""Images beyond this many pixels are refused as decompression bombs (Pillow's own error limit)."""


class BadImage(Exception):
    """No decoder can read the image; the text has its name and the reason."""


def decode_with_pil(data: bytes | memoryview, name: str) -> NDArray[np.uint8]:
    """Decode any image Pillow reads to upright RGB, (h, w, 3) uint8.

    EXIF orientation is applied, alpha dropped, 16-bit gray scaled to 8 bits.

    Raises:
        BadImage: Pillow cannot read it, or it has more than ``MAX_PIXELS`` pixels.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadImage(f"{name}: {image.width}x{image.height} pixels is over the limit")
            return np.asarray(to_rgb(ImageOps.exif_transpose(image)))
    except BadImage:
        raise
    except Exception as error:  # Pillow's plugins raise anything from SyntaxError to struct.error
        raise BadImage(f"{name}: {reason(error, len(data))}") from error


def reason(error: Exception, size: int) -> str:
    """Return a readable reason why Pillow could not read ``size`` bytes."""
    if size == 0:
        return "empty file"
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow knows, or cut off in its header"
    return str(error) or type(error).__name__


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB; 16-bit gray keeps its range instead of saturating."""
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64)
        return Image.fromarray(np.clip(wide >> 8, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
