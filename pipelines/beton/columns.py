"""What is known of the rows of a ``.beton``: 33 bytes a row, for many rows shared by a machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.system.shared import shared

LARGE = 1 << 20
"""Rows from which the processes of a machine share them."""
_TYPES: dict[str, np.dtype[Any]] = {
    "channels": np.dtype(np.int64),
    "offset": np.dtype(np.uint64),
    "size": np.dtype(np.uint64),
    "label": np.dtype(np.int64),
    "height": np.dtype(np.int32),
    "width": np.dtype(np.int32),
    "jpg": np.dtype(np.bool_),
}  # the largest first, so that each is aligned


@dataclass(frozen=True)
class Columns:
    """The checked rows of a file; all are views of the same memory."""

    channels: NDArray[np.int64]  # (1,)
    offset: NDArray[np.uint64]  # (N,) first byte in the file
    size: NDArray[np.uint64]  # (N,) bytes
    label: NDArray[np.int64]  # (N,) -1 without one
    height: NDArray[np.int32]  # (N,) pixels
    width: NDArray[np.int32]  # (N,)
    jpg: NDArray[np.bool_]  # (N,) whether it is a JPEG, and no raw pixels


def make_columns(path: Path, rows: int, version: str, fill: Callable[[Columns], None]) -> Columns:
    """Return the columns that ``fill`` makes of a file; of many rows, one copy on this machine.

    ``version`` tells the file from others that were or will be at the same path.
    """
    size = sum(_length(name, rows) * dtype.itemsize for name, dtype in _TYPES.items())
    if rows < LARGE:
        memory = np.empty(size, np.uint8)
        fill(_views(memory, rows))
    else:
        kind, key = f"rows-{_digest(os.fspath(path.resolve()))}", _digest(f"{rows} {version}")
        memory = shared(kind, key, size, np.dtype(np.uint8), lambda new: fill(_views(new, rows)))
    return _views(memory, rows)


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:16]


def _length(name: str, rows: int) -> int:
    return 1 if name == "channels" else rows


def _views(memory: NDArray[np.uint8], rows: int) -> Columns:
    views, begin = {}, 0
    for name, dtype in _TYPES.items():
        end = begin + _length(name, rows) * dtype.itemsize
        views[name] = memory[begin:end].view(dtype)
        begin = end
    return Columns(**views)
