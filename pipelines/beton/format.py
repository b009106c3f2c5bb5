"""FFCV's ``.beton`` layout, read and written with numpy alone.

::

    header | field descriptors | a metadata record per row | (gap) | pages of data | allocations

Every pointer, size and shape is checked on open, so a damaged file raises ``ValueError`` and never
causes a segmentation fault later. Writing is sequential and needs no worker processes. Stock FFCV
1.0.2 reads the result, also with its page cache, because no row crosses a page.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.beton.checks import Checks, Sizes, parts
from pipelines.beton.columns import Columns, make_columns
from pipelines.sources.beton import Beton
from pipelines.sources.image_file import ImageRules
from pipelines.sources.table import Table
from pipelines.system.stored_file import LocalFile

log = logging.getLogger(__name__)

VERSION = 2
MIN_PAGE_SIZE = 1 << 21
MAX_PAGE_SIZE = 1 << 31
MAX_SIDE = 65_535
"""Sides are stored in 16 bits."""
MAX_LABEL = 1 << 24
"""Largest class number; with larger ones, counting the classes would run out of memory."""

JPG, RAW = 0, 1
FLOAT_FIELD, INT_FIELD, IMAGE_FIELD = 0, 1, 2

# Little-endian on every machine, with the padding of a C compiler.
HEADER = np.dtype(
    {
        "names": ["version", "num_fields", "page_size", "num_samples", "alloc_table_ptr"],
        "formats": ["<u2", "<u2", "<u4", "<u8", "<u8"],
        "offsets": [0, 2, 4, 8, 16],
        "itemsize": 24,
    }
)
FIELD = np.dtype([("type_id", "u1"), ("name", "u1", (16,)), ("arguments", "u1", (1024,))])
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
IMAGE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
BLOB = np.dtype([("ptr", "<u8"), ("size", "<u8")])
# Layout of a row of each field type in the metadata (3 bytes, 4 array, 5 JSON, 6 tensor).
RECORDS: dict[int, np.dtype[Any]] = {
    FLOAT_FIELD: np.dtype("<f8"),
    INT_FIELD: np.dtype("<i8"),
    IMAGE_FIELD: IMAGE,
    3: BLOB,
    4: np.dtype("<u8"),
    5: BLOB,
    6: np.dtype("<u8"),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One row to be written: JPEG bytes, or the bytes of its (height, width, channels) pixels."""

    data: bytes
    height: int
    width: int
    jpg: bool
    label: int
    channels: int = 3


def manifest_path(path: Path) -> Path:
    """Return the path of the manifest of a ``.beton``: ``FILE.beton.json``."""
    return path.with_name(path.name + ".json")


def open_beton(path: Path, version: str | None = None) -> Table:
    """Open and check a ``.beton``; the label is its first integer field, -1 without one.

    The processes of a machine check and hold many rows once; ``version`` tells the file from others
    that were or will be at its path (default: by its time of change and its inode).

    Raises:
        ValueError: the file is missing or damaged, or holds no images; the text has the place.
    """
    try:
        with path.open("rb") as file:
            return _read(path, file, version)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from error


def _read(path: Path, file: IO[bytes], version: str | None) -> Table:
    stat = os.fstat(file.fileno())
    length = stat.st_size
    _check_end(path, length, HEADER.itemsize, "header")
    header = _records(path, file, HEADER, 0)(slice(0, 1))[0]
    rows, table_begin = int(header["num_samples"]), int(header["alloc_table_ptr"])
    if header["version"] != VERSION:
        raise ValueError(f"{path}: not an FFCV file of version {VERSION} ({header['version']})")
    if rows == 0:
        raise ValueError(f"{path}: holds no rows (was its writer interrupted?)")
    begin = HEADER.itemsize + int(header["num_fields"]) * FIELD.itemsize
    _check_end(path, length, begin, "fields")
    fields = _records(path, file, FIELD, HEADER.itemsize)(slice(0, int(header["num_fields"])))
    types = [int(field["type_id"]) for field in fields]
    record = _record_type(path, types)
    data_begin = begin + rows * record.itemsize
    _check_end(path, length, data_begin, "metadata")
    if not data_begin <= table_begin <= length or (length - table_begin) % ALLOCATION.itemsize:
        raise ValueError(f"{path}: the allocation table is not where the header says; cut off?")
    entries = (length - table_begin) // ALLOCATION.itemsize
    label = f"f{types.index(INT_FIELD)}" if INT_FIELD in types else None
    known = read_manifest(path).get("channels")
    known = known if isinstance(known, int) and known > 0 else None

    def fill(columns: Columns) -> None:
        checks = Checks(path, (data_begin, table_begin), MAX_LABEL, known)
        sizes = Sizes(path, entries, _records(path, file, ALLOCATION, table_begin))
        metadata = _records(path, file, record, begin)
        for some in parts(rows):
            records = metadata(some)
            image = records[f"f{types.index(IMAGE_FIELD)}"]
            columns.label[some] = -1 if label is None else records[label]
            mode = np.ascontiguousarray(image["mode"])
            checks.take(columns, some, image, (mode == JPG, mode == RAW), sizes)
        checks.finish(columns)

    version = version or f"{stat.st_mtime_ns} {stat.st_ino}"
    columns = make_columns(path, rows, f"{version} {length} {known}", fill)
    rules = _rules(path, int(columns.channels[0]))
    height, width = columns.height, columns.width
    source = Beton(LocalFile(path), columns.offset, columns.size, columns.jpg, height, width, rules)
    return Table(columns.label, height, width, source, _classes(path, columns.label))


def _check_end(path: Path, length: int, end: int, what: str) -> None:
    if end > length:
        raise ValueError(f"{path}: cut off: {what} would end at byte {end} of {length}")


def _records(
    path: Path, file: IO[bytes], dtype: np.dtype[Any], begin: int
) -> Callable[[slice], NDArray[Any]]:
    """Return a function that reads some of the records that begin at a byte."""

    def read(some: slice) -> NDArray[Any]:
        size = (some.stop - some.start) * dtype.itemsize
        file.seek(begin + some.start * dtype.itemsize)
        data = file.read(size)
        if len(data) != size:
            raise ValueError(f"{path}: cut off while it was read")
        return np.frombuffer(data, dtype)

    return read


def _record_type(path: Path, types: list[int]) -> np.dtype[Any]:
    """Return the dtype of one row's metadata: fields f0, f1, ... with C's alignment."""
    if unknown := sorted(set(types) - set(RECORDS)):
        raise ValueError(f"{path}: field types {unknown} are not FFCV's own")
    if IMAGE_FIELD not in types:
        raise ValueError(f"{path}: has no RGB image field")
    return np.dtype([(f"f{i}", RECORDS[kind]) for i, kind in enumerate(types)], align=True)


def _rules(path: Path, channels: int) -> ImageRules:
    """Return what the files became when the ``.beton`` was written, from its manifest."""
    try:
        kept = dict(read_manifest(path).get("rules", {}))
        pairs: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()}
        return ImageRules(**(pairs | {"channels": channels}))
    except (TypeError, ValueError) as error:
        log.warning("%s: the rules are damaged (%s): ignored", manifest_path(path), error)
        return ImageRules(channels=channels)


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of a ``.beton``; empty if absent, damaged, or of another file."""
    file = manifest_path(path)
    try:
        manifest = json.loads(file.read_bytes())
        if manifest["bytes"] == path.stat().st_size:
            return dict(manifest)
        log.warning("%s describes another file than %s: ignored", file, path.name)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        log.warning("%s cannot be read (%s): ignored", file, error)
    return {}


def _classes(path: Path, label: NDArray[np.int64]) -> tuple[str, ...]:
    """Return the manifest's class names, if they cover the labels."""
    names = read_manifest(path).get("classes", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        log.warning("%s: the classes are not a list of names: ignored", manifest_path(path))
        return ()
    if names and label.max(initial=-1) >= len(names):
        log.warning("%s names fewer classes than there are labels: ignored", manifest_path(path))
        return ()
    return tuple(names)
