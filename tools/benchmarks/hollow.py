"""A .beton with a hole in place of its images, to measure what their number costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipelines.beton.format import ALLOCATION, FIELD, HEADER, IMAGE_FIELD, INT_FIELD, JPG, VERSION
from pipelines.beton.writer import RECORD

IMAGE_BYTES = 100_000
"""Mean bytes of an image; the hole of 100 million is 10 TB, and ext4 allows files of 16 TiB."""
CHUNK = 1 << 20


def write_hollow(path: Path, rows: int) -> None:
    """Write the index of so many JPEGs of random sizes, sides and labels, and none of their bytes.

    Raises:
        OSError: the disk is full, or its file system allows no file as long.
    """
    fields = np.zeros(2, FIELD)
    fields["type_id"] = IMAGE_FIELD, INT_FIELD
    begin = HEADER.itemsize + fields.nbytes
    first = begin + rows * RECORD.itemsize
    end = first + rows * IMAGE_BYTES  # of the images: the sizes of each chunk have this mean
    with path.open("wb") as file:
        for at in range(0, rows, CHUNK):
            count = min(CHUNK, rows - at)
            rng = np.random.default_rng(at)
            size = np.full(count, IMAGE_BYTES, np.int64)
            some = rng.integers(-60_000, 60_000, count // 2)
            size[: 2 * len(some)] += np.stack((some, -some), axis=1).ravel()
            records, entries = np.zeros(count, RECORD), np.zeros(count, ALLOCATION)
            records["image"]["mode"] = JPG
            for side in ("width", "height"):
                records["image"][side] = rng.integers(300, 600, count)
            records["image"]["data_ptr"] = first + at * IMAGE_BYTES + np.cumsum(size) - size
            records["label"] = rng.integers(0, 1000, count)
            entries["sample_id"] = np.arange(at, at + count)
            entries["ptr"], entries["size"] = records["image"]["data_ptr"], size
            file.seek(begin + at * RECORD.itemsize)
            file.write(records.tobytes())
            file.seek(end + at * ALLOCATION.itemsize)
            file.write(entries.tobytes())
        file.seek(0)
        file.write(np.array((VERSION, len(fields), 1 << 21, rows, end), HEADER).tobytes())
        file.write(fields.tobytes())
