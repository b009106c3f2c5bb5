"""Mean and deviation of a data set's pixels, measured once."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.beton.convert import content_key
from pipelines.decoders.pil import pixels_or_replacement
from pipelines.settings import OnBadImage
from pipelines.sources.beton import Beton
from pipelines.sources.join import part_tables
from pipelines.sources.joined import Joined
from pipelines.sources.table import Table
from pipelines.system.atomic import replacing
from pipelines.system.cache import cache_root
from pipelines.system.progress import tracked
from pipelines.system.scope import scoped_map
from pipelines.system.stored_file import LocalFile

log = logging.getLogger(__name__)

SAMPLE = 2_000
"""Images that are measured, spread evenly over the table."""
DIGITS = 4
"""Decimal places of the result, so that it does not depend on the machine."""


@dataclass(frozen=True)
class PixelStatistics:
    """Mean and standard deviation of each channel, of pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def pixel_statistics(
    table: Table, *, workers: int = 1, on_bad: OnBadImage = "stop"
) -> PixelStatistics:
    """Return the mean and deviation of whole images; each of up to 2,000 images counts alike.

    The images are spread evenly over the table, so that the result depends on the data alone. It
    is rounded to four decimals and kept in the cache. The deviation is that of all pixels from
    the mean of the data set. A channel without any variation gets the deviation 1.

    Raises:
        BadImage: an image cannot be read, and ``on_bad`` is "stop".
    """
    file = cache_root() / "statistics" / f"{_identity(table)}.json"
    known = _load(file)
    if known is None:
        known = _measure(table, workers, on_bad)
        with replacing(file) as temporary:
            temporary.write_text(json.dumps({"mean": known.mean, "std": known.std}) + "\n")
    return known


def _measure(table: Table, workers: int, on_bad: OnBadImage) -> PixelStatistics:
    rows = np.unique(np.linspace(0, len(table) - 1, SAMPLE).astype(np.int64))

    def moments(row: np.int64) -> NDArray[np.float64]:
        pixels, _ = pixels_or_replacement(table, int(row), on_bad)
        values = np.arange(256) / 255
        planes = pixels.reshape(-1, pixels.shape[2]).T
        counts = np.stack([np.bincount(plane, minlength=256) for plane in planes])
        shares = counts / planes.shape[1]
        return np.stack([shares @ values, shares @ values**2])

    each = scoped_map(moments, rows, workers, "unmix-statistics")
    found = tracked(each, len(rows), "measuring the mean of the pixels")
    mean, square = np.mean(np.stack(list(found)), axis=0)
    deviation = np.sqrt(np.maximum(square - mean**2, 0)).round(DIGITS)
    for channel in np.flatnonzero(deviation == 0):
        log.warning("channel %d has the value %.4f everywhere", channel, mean[channel])
    deviation = np.where(deviation == 0, 1.0, deviation)
    made = PixelStatistics(tuple(mean.round(DIGITS).tolist()), tuple(deviation.tolist()))
    values = ("mean", made.mean), ("std", made.std)
    text = ", ".join(f"{name} {' '.join(f'{v:g}' for v in found)}" for name, found in values)
    log.info("measured in %s images: %s", f"{len(rows):,}", text)
    return made


def _identity(table: Table) -> str:
    """Return a digest of the rows and of the state of their bytes."""
    if isinstance(table.source, Joined):
        each = "\0".join(map(_identity, part_tables(table)))
        digest = hashlib.sha256(each.encode())
        if table.source.places is not None:
            digest.update(table.source.places.data)
        return digest.hexdigest()[:16]
    if not isinstance(table.source, Beton):
        return content_key(table)
    stat, is_local = table.source.path.stat(), isinstance(table.source.file, LocalFile)
    digest = hashlib.sha256(f"{table.source.path.resolve()}\0{stat.st_size}".encode())
    changed = stat.st_mtime_ns if is_local else 0  # a remote file's place is that of its version
    digest.update(f"\0{changed}\0{SAMPLE}".encode())
    digest.update(np.ascontiguousarray(table.source.offset).data)
    return digest.hexdigest()[:16]


def _load(file: Path) -> PixelStatistics | None:
    try:
        kept = json.loads(file.read_text())
        return PixelStatistics(tuple(kept["mean"]), tuple(kept["std"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s cannot be read (%s): measured again", file, error)
        return None
