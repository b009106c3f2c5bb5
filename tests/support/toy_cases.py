"""A toy data set of two classes, as a folder of images."""

from pathlib import Path

import numpy as np
from PIL import Image


def toy_images(root: Path, split: str, num_images: int) -> None:
    """Smooth 20x20 JPEGs of two classes that differ in colour."""
    rng = np.random.default_rng(len(split))
    for i in range(num_images):
        pixels = rng.integers(0, 160, (4, 4, 3))
        pixels[..., i % 2] += 90
        image = Image.fromarray(pixels.astype(np.uint8)).resize((20, 20), Image.Resampling.BICUBIC)
        path = root / split / f"class{i % 2}" / f"{i:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=95)
