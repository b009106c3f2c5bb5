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
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.sources.beton import Beton
from pipelines.sources.image_file import MAX_PIXELS, ImageRules
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


def open_beton(path: Path) -> Table:
    """Open and check a ``.beton``; the label is its first integer field, -1 without one.

    Raises:
        ValueError: the file is missing or damaged, or holds no images; the text has the place.
    """
    try:
        with path.open("rb") as file:
            return _read(path, file)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from error


def _read(path: Path, file: IO[bytes]) -> Table:
    length = os.fstat(file.fileno()).st_size
    header = _array(path, file, length, HEADER, 0, 1, "header")[0]
    rows, table_begin = int(header["num_samples"]), int(header["alloc_table_ptr"])
    if header["version"] != VERSION:
        raise ValueError(f"{path}: not an FFCV file of version {VERSION} ({header['version']})")
    if rows == 0:
        raise ValueError(f"{path}: holds no rows (was its writer interrupted?)")
    fields = _array(path, file, length, FIELD, HEADER.itemsize, int(header["num_fields"]), "fields")
    types = [int(field["type_id"]) for field in fields]
    record = _record_type(path, types)
    begin = HEADER.itemsize + fields.nbytes
    metadata = _array(path, file, length, record, begin, rows, "metadata")
    data_begin = begin + metadata.nbytes
    if not data_begin <= table_begin <= length or (length - table_begin) % ALLOCATION.itemsize:
        raise ValueError(f"{path}: the allocation table is not where the header says; cut off?")
    entries = (length - table_begin) // ALLOCATION.itemsize
    allocations = _array(path, file, length, ALLOCATION, table_begin, entries, "allocation table")

    image = metadata[f"f{types.index(IMAGE_FIELD)}"]
    size = _sizes(path, image["data_ptr"], allocations)
    _check_rows(path, image, size, data_begin, table_begin)
    channels = _channels(path, image, size)
    label = _labels(path, metadata, types)
    height, width = image["height"].astype(np.int32), image["width"].astype(np.int32)
    offset = image["data_ptr"].astype(np.uint64)
    rules = _rules(path, channels)
    source = Beton(LocalFile(path), offset, size, image["mode"] == JPG, height, width, rules)
    return Table(label, height, width, source, _classes(path, label))


def _array(
    path: Path,
    file: IO[bytes],
    length: int,
    dtype: np.dtype[Any],
    begin: int,
    count: int,
    what: str,
) -> NDArray[Any]:
    """Read ``count`` records at ``begin``; never read more bytes than the file has."""
    end = begin + count * dtype.itemsize
    if end > length:
        raise ValueError(f"{path}: cut off: {what} would end at byte {end} of {length}")
    file.seek(begin)
    data = file.read(end - begin)
    if len(data) != end - begin:
        raise ValueError(f"{path}: cut off while its {what} was read")
    return np.frombuffer(data, dtype)


def _record_type(path: Path, types: list[int]) -> np.dtype[Any]:
    """Return the dtype of one row's metadata: fields f0, f1, ... with C's alignment."""
    if unknown := sorted(set(types) - set(RECORDS)):
        raise ValueError(f"{path}: field types {unknown} are not FFCV's own")
    if IMAGE_FIELD not in types:
        raise ValueError(f"{path}: has no RGB image field")
    return np.dtype([(f"f{i}", RECORDS[kind]) for i, kind in enumerate(types)], align=True)


def _sizes(
    path: Path, pointer: NDArray[np.uint64], allocations: NDArray[Any]
) -> NDArray[np.uint64]:
    """Return each row's number of bytes, found by their offset."""
    if not len(allocations):
        raise ValueError(f"{path}: its allocation table is empty")
    order = np.argsort(allocations["ptr"], kind="stable")
    begins = allocations["ptr"][order]
    place = np.minimum(np.searchsorted(begins, pointer), len(begins) - 1)
    _refuse(path, begins[place] != pointer, "no size is recorded for its data")
    return allocations["size"][order][place].astype(np.uint64)


def _check_rows(
    path: Path, image: NDArray[Any], size: NDArray[np.uint64], begin: int, end: int
) -> None:
    """Check that every row lies between metadata and allocation table and has a valid shape."""
    pointer = image["data_ptr"]
    height, width = image["height"].astype(np.uint64), image["width"].astype(np.uint64)
    pixels = height * width
    mode = image["mode"]
    _refuse(path, (mode != JPG) & (mode != RAW), "unknown storage mode")
    _refuse(path, pixels == 0, "an image without pixels")
    _refuse(path, pixels > MAX_PIXELS, f"more than {MAX_PIXELS:,} pixels")
    _refuse(path, (pointer < begin) | (pointer > end), "its data begins outside the data region")
    room = np.uint64(end) - np.minimum(pointer, np.uint64(end))
    _refuse(path, (size == 0) | (size > room), "its data ends outside the data region")


def _channels(path: Path, image: NDArray[Any], size: NDArray[np.uint64]) -> int:
    """Return the number of channels: that of the raw rows, else the manifest's, else three.

    Raises:
        ValueError: a raw row has not its height x width x channels bytes, or the manifest names
            another number.
    """
    raw = image["mode"] == RAW
    pixels = image["height"].astype(np.uint64) * image["width"].astype(np.uint64)
    named = read_manifest(path).get("channels")
    known = named if isinstance(named, int) and named > 0 else None
    found = known or 3
    if raw.any():
        first = int(np.argmax(raw))
        measured, rest = divmod(int(size[first]), int(pixels[first]))
        found = known or (3 if rest else max(measured, 1))
    wrong = raw & (size != np.uint64(found) * pixels)
    _refuse(path, wrong, f"raw data of another size than h x w x {found}")
    return found


def _rules(path: Path, channels: int) -> ImageRules:
    """Return what the files became when the ``.beton`` was written, from its manifest."""
    try:
        kept = dict(read_manifest(path).get("rules", {}))
        pairs: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()}
        return ImageRules(**(pairs | {"channels": channels}))
    except (TypeError, ValueError) as error:
        log.warning("%s: the rules are damaged (%s): ignored", manifest_path(path), error)
        return ImageRules(channels=channels)


def _refuse(path: Path, bad: NDArray[np.bool_], why: str) -> None:
    if bad.any():
        first = int(np.argmax(bad))
        raise ValueError(f"{path}: damaged: {why} (row {first}; {int(bad.sum())} rows in all)")


def _labels(path: Path, metadata: NDArray[Any], types: list[int]) -> NDArray[np.int64]:
    if INT_FIELD not in types:
        return np.full(len(metadata), -1, np.int64)
    label = metadata[f"f{types.index(INT_FIELD)}"].astype(np.int64)
    _refuse(path, (label < -1) | (label > MAX_LABEL), "its label is no class number")
    return label


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
