"""A digest of what some rows hold: it tells data sets apart whose rows have the same sizes."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from pipelines.remote.errors import RemoteError
from pipelines.sources.files import Files
from pipelines.sources.joined import Joined
from pipelines.sources.source import Source
from pipelines.sources.table import Table

ROWS = 16
"""Rows that are looked at, spread evenly."""
LIMIT = 1 << 20
"""Bytes of a row that are looked at, from its middle."""


def sample_key(table: Table) -> str:
    """Return a digest of the stored bytes of at most 16 rows, of each at most 1 MiB.

    It is the same wherever the data are, on a disk or in a store, and whatever decodes them.

    Raises:
        RemoteError: the rows cannot be fetched.
    """
    source = table.source
    rows = np.unique(np.linspace(0, len(table) - 1, ROWS).astype(np.int64))
    digest = hashlib.sha256()
    source.will_need(rows)
    with source.held(rows):
        for row in rows.tolist():
            digest.update(_middle(source, row))
    return digest.hexdigest()[:16]


def _middle(source: Source, row: int) -> bytes:
    """Return the middle of a row's stored bytes; nothing of one that cannot be read."""
    while isinstance(source, Joined):
        part, row = source.part_of(row)
        source = part.source
    try:
        if isinstance(source, Files):
            return _middle_of_file(source, row)
        data = source.encoded(row)
        return _cut((source.pixels(row) if data is None else data).reshape(-1)).tobytes()
    except RemoteError:
        raise
    except (OSError, ValueError):  # as --on-bad-image replace allows
        return b""


def _middle_of_file(source: Files, row: int) -> bytes:
    with (source.root / source.names[row]).open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - LIMIT, 0) // 2)
        return file.read(LIMIT)


def _cut(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    begin = max(len(data) - LIMIT, 0) // 2
    return data[begin : begin + LIMIT]
