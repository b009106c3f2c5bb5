"""The limit of an image's pixels (``--max-pixels``), and messages that lead past it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from threading import Lock

from PIL import Image

from pipelines.sources.png import File

_LIMIT = Lock()
"""Held while Pillow's own limit, which is global, is off."""


def check_size(width: int, height: int, most: int) -> None:
    """Raise ``ValueError`` for an image of more than ``most`` pixels; the text names the flag."""
    if width * height > most:
        raise ValueError(
            f"{width}x{height} pixels are over the limit of {most:,}; "
            f"--max-pixels {width * height} takes it"
        )


def size_beyond_limit(file: File) -> tuple[int, int]:
    """Return width and height of an image that Pillow refuses for its number of pixels."""
    with _LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            file.seek(0)
            with Image.open(file) as image:
                return image.size
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def enough_for(reasons: Iterable[str]) -> int | None:
    """Return the --max-pixels that takes every image refused by ``check_size``; None: no such."""
    found = re.findall(r"--max-pixels (\d+) takes it", "\n".join(reasons))
    return max(map(int, found), default=None)
