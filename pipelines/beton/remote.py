"""Open a ``.beton`` in a bucket or on a web server.

Its header, metadata and allocation table are fetched, and ``open_beton`` reads them from the
local sparse file; images are fetched when they are needed. ``FILE.beton.json`` is read beside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.beton.format import (
    FIELD,
    HEADER,
    RECORDS,
    VERSION,
    manifest_path,
    open_beton,
    read_manifest,
)
from pipelines.remote.errors import NotThere, RemoteError
from pipelines.remote.file import RemoteFile, RemoteOptions, open_remote
from pipelines.remote.store import open_object, read_small
from pipelines.remote.url import is_remote, kind_of, title_of
from pipelines.sources.beton import Beton
from pipelines.sources.table import Table
from pipelines.system.atomic import write_text
from pipelines.system.cache import cache_root
from pipelines.system.page_cache import Ranges

log = logging.getLogger(__name__)


def default_options() -> RemoteOptions:
    """Return the options of remote files where nobody has said otherwise."""
    return RemoteOptions(cache_root())


def is_remote_beton(spec: str) -> bool:
    """Whether a text is the URL of a ``.beton``, or a pattern of such.

    A query, as of a signed URL, may follow; except in http, ``?`` may also stand for a character.
    """
    if not is_remote(spec):
        return False
    has_wildcard = kind_of(spec) != "http" and spec.endswith(".beton")
    return has_wildcard or spec.partition("?")[0].endswith(".beton")


def open_remote_beton(url: str, options: RemoteOptions | None = None) -> Table:
    """Open and check the ``.beton`` of a URL, as ``open_beton`` does.

    Raises:
        RemoteError: it cannot be fetched, or not be kept.
        ValueError: it is damaged, or holds no images.
    """
    manifest = manifest_of(url)
    crc = manifest.get("crc")
    file = open_remote(url, options or default_options(), crc)
    if manifest:
        write_text(manifest_path(file.path), json.dumps(manifest))
    else:
        manifest_path(file.path).unlink(missing_ok=True)
    with _named(file), contextlib.ExitStack() as index:
        for ranges in _index_ranges(file):
            index.enter_context(file.held(ranges))
        table = open_beton(file.path, file.path.parent.name)  # of the URL and its version
    assert isinstance(table.source, Beton)
    return dataclasses.replace(table, source=dataclasses.replace(table.source, file=file))


def manifest_of(place: str) -> dict[str, Any]:
    """Return the manifest of a ``.beton``, a path or a URL, as ``read_manifest`` does.

    A URL's is fetched once for each version of the object.

    Raises:
        RemoteError: the object cannot be read.
    """
    if not is_remote(place):
        return read_manifest(Path(place).expanduser())
    found = open_object(place)
    return dict(_fetched_manifest(place, found.version, found.size))


def remote_val(url: str) -> str | None:
    """Return the first of val.beton, valid.beton, ... next to train.beton that is there, or None.

    Raises:
        RemoteError: the store does not answer.
    """
    path, mark, query = url.partition("?")
    folder, _, name = path.rpartition("/")
    for split in ("val", "valid", "validation", "test"):
        other = re.sub(r"train(?!.*train)", split, name)
        place = f"{folder}/{other}{mark}{query}"
        if other != name and _exists(place):
            return place
    return None


def _exists(url: str) -> bool:
    try:
        open_object(url)
    except NotThere:
        return False
    return True


@functools.lru_cache(16)
def _fetched_manifest(url: str, version: str, size: int) -> dict[str, Any]:
    title = manifest_path(Path(title_of(url))).name
    path, mark, query = url.partition("?")
    text = read_small(f"{path}.json{mark}{query}")
    try:
        if text is None:
            return {}
        manifest = json.loads(text)
        if manifest["bytes"] == size:
            return dict(manifest)
        log.warning("%s.json describes another file than %s: ignored", title_of(url), title)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        log.warning("%s.json cannot be read (%s): ignored", title_of(url), error)
    return {}


def _index_ranges(file: RemoteFile) -> Iterator[Ranges]:
    """Yield the ranges of all that ``open_beton`` reads; a later one depends on an earlier one."""
    yield _range(file, 0, HEADER.itemsize)
    if file.size < HEADER.itemsize:
        return
    header = file.bytes[: HEADER.itemsize].view(HEADER)[0]
    if header["version"] != VERSION:
        return
    begin, rows = HEADER.itemsize, int(header["num_samples"])
    fields_end = begin + FIELD.itemsize * int(header["num_fields"])
    yield _range(file, begin, fields_end)
    if fields_end > file.size:
        return
    kinds = [int(kind) for kind in file.bytes[begin:fields_end].view(FIELD)["type_id"]]
    known = [(f"f{i}", RECORDS[kind]) for i, kind in enumerate(kinds) if kind in RECORDS]
    record = np.dtype(known, align=True).itemsize
    table = int(header["alloc_table_ptr"])
    yield np.concatenate(
        [_range(file, fields_end, fields_end + record * rows), _range(file, table, file.size)]
    )


def _range(file: RemoteFile, begin: int, end: int) -> Ranges:
    """Return a range, as far as the file has it."""
    return np.minimum(np.array([[begin, end]], np.uint64), file.size).astype(np.int64)


@contextlib.contextmanager
def _named(file: RemoteFile) -> Iterator[None]:
    """Name the URL in errors instead of the local file."""
    try:
        yield
    except RemoteError:
        raise
    except ValueError as error:
        raise ValueError(str(error).replace(str(file.path), file.title)) from error
