"""A digest of what some rows hold: it tells data sets apart whose rows have the same sizes."""

from __future__ import annotations

import hashlib
import os

import numpy as np

from pipelines.remote.errors import RemoteError
from pipelines.sources.files import Files
from pipelines.sources.joined import innermost
from pipelines.sources.source import Source
from pipelines.sources.stored import InFiles
from pipelines.sources.table import Table
from pipelines.system.stored_file import StoredFile

ROWS = 16
"""Rows that are looked at, spread evenly."""
LIMIT = 1 << 20
"""Bytes of a row that are looked at, from its middle."""


def sample_key(table: Table) -> str:
    """Return a digest of the stored bytes of at most 16 rows, of each at most 1 MiB.

    It is the same wherever the data are, on a disk or in a store, and whatever decodes them.

    Raises:
        ValueError: a file is there and cannot be read; RemoteError: rows cannot be fetched.
    """
    numbers = np.unique(np.linspace(0, len(table) - 1, ROWS).astype(np.int64))
    rows = [innermost(table.source, number) for number in numbers.tolist()]
    for source, row in rows:
        _request(source, row)
    digest = hashlib.sha256()
    for source, row in rows:
        digest.update(_middle(source, row))
    return digest.hexdigest()[:16]


def _request(source: Source, row: int) -> None:
    """Request the bytes that are looked at, and do not wait for them."""
    if isinstance(source, InFiles):
        file, begin, size = _place(source, row)
        file.will_need(np.array([[begin, begin + size]]))
    else:
        source.will_need(np.array([row]))


def _middle(source: Source, row: int) -> bytes:
    """Return the middle of a row's stored bytes; nothing of one that is damaged or missing."""
    try:
        if isinstance(source, InFiles):
            file, begin, size = _place(source, row)
            return file.read(begin, size).tobytes()
        if isinstance(source, Files):
            return _middle_of_file(source, row)
        data = source.encoded(row)
        data = (source.pixels(row) if data is None else data).reshape(-1)
        begin, size = _cut(len(data))
        return data[begin : begin + size].tobytes()
    except RemoteError:
        raise
    except (FileNotFoundError, ValueError):  # as --on-bad-image replace allows
        return b""
    except OSError as error:  # which may pass: the bytes are not others
        raise ValueError(
            f"{source.name(row)}: cannot be read ({error.strerror or error}); a run knows its "
            "images by the bytes of some, so start again when it can be read"
        ) from error


def _place(source: InFiles, row: int) -> tuple[StoredFile, int, int]:
    """Return the file of a row, and begin and size of the row's middle in it."""
    piece = source.pieces(np.array([row]))
    begin, size = _cut(int(piece.size[0]))
    return source.files[int(piece.file[0])], int(piece.offset[0]) + begin, size


def _middle_of_file(source: Files, row: int) -> bytes:
    with (source.root / source.names[row]).open("rb") as file:
        begin, size = _cut(file.seek(0, os.SEEK_END))
        file.seek(begin)
        return file.read(size)


def _cut(size: int) -> tuple[int, int]:
    """Return begin and size of the middle of so many bytes."""
    return max(size - LIMIT, 0) // 2, min(size, LIMIT)
