"""What the system keeps of files in memory: bytes asked for ahead of their use, or given up.

Both are advice: a file that cannot be opened is no error here, whoever reads it will say so.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

GAP = 1 << 16
"""Bytes between two ranges that are read too, rather than asking twice."""
REQUEST = 1 << 17
"""Bytes of a request: Linux silently cuts greater ones to a device's read-ahead, usually this."""

Ranges = NDArray[np.int64]
"""The bytes of a file from a begin up to an end, (k, 2)."""


def joined(begin: NDArray[np.integer], size: NDArray[np.integer]) -> Ranges:
    """Return the ranges, at least one, in ascending order, those with a small gap as one."""
    turn = np.argsort(begin, kind="stable")
    first = begin[turn].astype(np.int64)
    last = np.maximum.accumulate(first + size[turn].astype(np.int64))
    apart = np.flatnonzero(first[1:] > last[:-1] + GAP)
    return np.stack((first[np.append(0, apart + 1)], last[np.append(apart, len(last) - 1)]), axis=1)


def whole_pages(ranges: Ranges) -> Ranges:
    """Return the ranges with their ends moved out to the ends of pages."""
    page = mmap.PAGESIZE
    return np.stack((ranges[:, 0] // page * page, -(-ranges[:, 1] // page) * page), axis=1)


def will_need(path: Path, ranges: Ranges | None = None) -> None:
    """Let the system begin to read these bytes, or all; returns when the requests are queued."""
    with _opened(path) as file:
        if file is not None:
            for begin, end in _of(file, ranges).tolist():
                for at in range(begin, end, REQUEST):
                    size = min(REQUEST, end - at)
                    os.posix_fadvise(file, at, size, os.POSIX_FADV_WILLNEED)


def forget(path: Path, ranges: Ranges | None = None) -> None:
    """Let the system drop the pages that hold these bytes, or all: their next read is cold.

    Pages that are not yet on the disk stay, and so do those that a process has mapped.
    """
    with _opened(path) as file:
        if file is not None:
            for begin, end in whole_pages(_of(file, ranges)).tolist():
                os.posix_fadvise(file, begin, end - begin, os.POSIX_FADV_DONTNEED)


def _of(file: int, ranges: Ranges | None) -> Ranges:
    return np.array([[0, os.fstat(file).st_size]]) if ranges is None else ranges


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        yield None
        return
    try:
        yield file
    finally:
        os.close(file)
