"""Room for a ``.beton``: its page size, its estimated bytes, and whether the disk has them."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np

from pipelines.beton.encode import Encoded, Settings, Task, encode_rows
from pipelines.beton.format import MAX_PAGE_SIZE, MIN_PAGE_SIZE
from pipelines.beton.writer import RECORD
from pipelines.sources.parquet_rows import Parquet
from pipelines.sources.table import Table
from pipelines.system.units import size_text

log = logging.getLogger(__name__)

ESTIMATE_ROWS = 64
USUAL_PAGE_SIZE = 1 << 23


def page_size_of(table: Table, settings: Settings) -> int:
    """Return a power of two that holds the largest row: 8 MiB, or less for small images."""
    sides = np.maximum(table.height, table.width)
    area = table.height.astype(np.int64) * table.width
    if settings.max_size:
        large = sides > settings.max_size
        area = np.where(large, np.minimum(area, settings.max_size**2), area)
    largest = max(table.channels, 3) * int(area.max(initial=1))
    wanted = max(min(8 * largest, USUAL_PAGE_SIZE), largest, MIN_PAGE_SIZE)
    return min(1 << (wanted - 1).bit_length(), MAX_PAGE_SIZE)


def estimate(table: Table, settings: Settings) -> int:
    """Estimate the bytes of the file by encoding up to 64 of its rows."""
    if not len(table):
        raise ValueError("there are no images to convert")
    rows = np.unique(np.linspace(0, len(table) - 1, ESTIMATE_ROWS).astype(np.int64))
    if isinstance(table.source, Parquet):
        rows = table.source.example_rows()
    page_size = page_size_of(table, settings)
    results = encode_rows(Task(table.take(rows), settings, page_size))
    sizes = [len(row.sample.data) for row in results if isinstance(row, Encoded)]
    mean = sum(sizes) / max(1, len(sizes))
    return round(len(table) * (mean + 2 * RECORD.itemsize)) + page_size


def check_room(out: Path, need: int) -> None:
    """Raise ``ValueError`` if the disk of ``out`` has less than ``need`` bytes free."""
    place = next(folder for folder in out.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(place).free
    log.info("%s: about %s, %s are free", out, size_text(need), size_text(free))
    if need > free:
        raise ValueError(
            f"{out} needs about {size_text(need)}, {size_text(free)} are free: "
            "choose another disk, or a smaller --max-size"
        )
