"""Tar shards of a few small images."""

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def encoded(value: int, kind: str = "PNG") -> bytes:
    """A 4 x 6 image whose red is ``value``."""
    file = io.BytesIO()
    Image.new("RGB", (6, 4), (value, 0, 0)).save(file, kind)
    return file.getvalue()


def photo(seed: int, height: int = 40, width: int = 60, **options: object) -> bytes:
    """A JPEG of smooth colours, other ones for each seed."""
    colors = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    image = Image.fromarray(colors).resize((width, height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 90, **options})
    return file.getvalue()


Members = Mapping[str, bytes] | Iterable[tuple[str, bytes]]


def write_shard(path: Path, members: Members, kind: int = tarfile.PAX_FORMAT) -> str:
    """Write a tar file with these members, in order; return its path."""
    pairs = members.items() if isinstance(members, Mapping) else members
    with tarfile.open(path, "w", format=kind) as tar:
        for name, data in pairs:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)
