"""Write a ``.beton`` in one process and one pass; the file appears complete or not at all."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from pipelines.beton.format import (
    ALLOCATION,
    FIELD,
    HEADER,
    IMAGE_FIELD,
    INT_FIELD,
    JPG,
    MAX_PAGE_SIZE,
    MAX_SIDE,
    MIN_PAGE_SIZE,
    RAW,
    RECORDS,
    VERSION,
    Sample,
)
from pipelines.system.atomic import replacing

FIELDS = {"image": IMAGE_FIELD, "label": INT_FIELD}
RECORD = np.dtype([(name, RECORDS[kind]) for name, kind in FIELDS.items()], align=True)
CHUNK = 65_536
"""Rows whose allocations are written at a time."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_beton(path: Path, samples: Iterable[Sample], num_samples: int, page_size: int) -> int:
    """Write at most ``num_samples`` rows and return their number.

    The file appears under ``path`` when it is complete. After an error no partial file is left.

    Args:
        path: the file to make or replace.
        samples: the rows in order; each fits a page.
        num_samples: number of rows for which to reserve metadata; fewer may come.
        page_size: a power of two, 2 MiB to 2 GiB; rows do not cross multiples of it.

    Raises:
        ValueError: there is no row, or one that the format cannot hold.
        OSError: the disk is full, or the file system failed otherwise.
    """
    if page_size & (page_size - 1) or not MIN_PAGE_SIZE <= page_size <= MAX_PAGE_SIZE:
        raise ValueError(f"page size {page_size} is not a power of two from 2 MiB to 2 GiB")
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            rows = _write(file, samples, num_samples, page_size)
            if rows == 0:
                raise ValueError(f"{path}: not one image to write")
            return rows
    except OSError as error:
        if error.errno in DISK_FULL:
            text = f"no space left for {path}; nothing was written under that name"
            raise OSError(error.errno, text) from error
        raise


def _write(file: IO[bytes], samples: Iterable[Sample], capacity: int, page_size: int) -> int:
    metadata = np.zeros(capacity, RECORD)
    sizes = np.zeros(capacity, np.uint64)
    begin = HEADER.itemsize + len(FIELDS) * FIELD.itemsize
    position = _next_page(begin + metadata.nbytes, page_size)
    rows = 0
    for rows, sample in enumerate(samples, 1):
        _check(sample, rows - 1, capacity, page_size)
        size = len(sample.data)
        if position // page_size != (position + size - 1) // page_size:
            position = _next_page(position, page_size)
        file.seek(position)  # the gap before a page is a hole, which reads as zeros
        file.write(sample.data)
        mode = JPG if sample.jpg else RAW
        metadata[rows - 1] = ((mode, sample.width, sample.height, position), sample.label)
        sizes[rows - 1] = size
        position += size
    for begin in range(0, rows, CHUNK):
        some = slice(begin, min(begin + CHUNK, rows))
        file.write(_allocations(metadata["image"]["data_ptr"][some], sizes[some], begin).data)
    file.seek(0)
    file.write(np.array((VERSION, len(FIELDS), page_size, rows, position), HEADER).tobytes())
    file.write(_descriptors())
    file.write(metadata.view(np.uint8).data)
    return rows


def _allocations(
    pointer: NDArray[np.uint64], size: NDArray[np.uint64], begin: int
) -> NDArray[np.uint8]:
    """Return the entries of rows from ``begin`` on, as bytes."""
    entries = np.zeros(len(pointer), ALLOCATION)
    entries["sample_id"] = np.arange(begin, begin + len(pointer))
    entries["ptr"], entries["size"] = pointer, size
    return entries.view(np.uint8)


def _next_page(position: int, page_size: int) -> int:
    """The first multiple of ``page_size`` at or after ``position``."""
    return -(-position // page_size) * page_size


def _check(sample: Sample, row: int, capacity: int, page_size: int) -> None:
    if row >= capacity:
        raise ValueError(f"more than the announced {capacity} rows")
    if not (1 <= sample.height <= MAX_SIDE and 1 <= sample.width <= MAX_SIDE):
        raise ValueError(f"row {row}: {sample.width}x{sample.height} is over {MAX_SIDE} a side")
    if not 1 <= len(sample.data) <= page_size:
        raise ValueError(f"row {row}: {len(sample.data)} bytes do not fit a page of {page_size}")
    shape = (sample.height, sample.width, sample.channels)
    if not sample.jpg and len(sample.data) != math.prod(shape):
        raise ValueError(f"row {row}: raw data is not {' x '.join(map(str, shape))} bytes")


def _descriptors() -> bytes:
    fields = np.zeros(len(FIELDS), FIELD)
    for field, (name, kind) in zip(fields, FIELDS.items(), strict=True):
        field["type_id"] = kind
        field["name"][: len(name)] = np.frombuffer(name.encode(), np.uint8)
    return fields.tobytes()
