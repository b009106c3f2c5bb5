"""The system's page cache: advise it to read bytes of a file ahead, or to drop them.

A file that cannot be opened is no error here; reading it raises one.
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
"""Ranges with a gap of at most this many bytes between them are requested as one."""
REQUEST = 1 << 17
"""Bytes of a request: Linux cuts larger ones silently to a device's read-ahead, usually this."""

Ranges = NDArray[np.int64]
"""Byte ranges of a file, begin and end, (k, 2)."""


def joined(begin: NDArray[np.integer], size: NDArray[np.integer]) -> Ranges:
    """Return the ranges, at least one, in ascending order; those with small gaps are joined."""
    turn = np.argsort(begin, kind="stable")
    first = begin[turn].astype(np.int64)
    last = np.maximum.accumulate(first + size[turn].astype(np.int64))
    apart = np.flatnonzero(first[1:] > last[:-1] + GAP)
    return np.stack((first[np.append(0, apart + 1)], last[np.append(apart, len(last) - 1)]), axis=1)


def whole_pages(ranges: Ranges) -> Ranges:
    """Return the ranges extended to whole pages."""
    page = mmap.PAGESIZE
    return np.stack((ranges[:, 0] // page * page, -(-ranges[:, 1] // page) * page), axis=1)


def will_need(path: Path, ranges: Ranges | None = None) -> None:
    """Request these bytes, or the whole file; return when the requests are queued."""
    with _opened(path) as file:
        if file is not None:
            for begin, end in _of(file, ranges).tolist():
                for at in range(begin, end, REQUEST):
                    size = min(REQUEST, end - at)
                    os.posix_fadvise(file, at, size, os.POSIX_FADV_WILLNEED)


def forget(path: Path, ranges: Ranges | None = None) -> None:
    """Drop the pages of these bytes, or of the whole file, so that their next read is cold.

    Pages that are not yet written to the disk stay, as do pages that a process has mapped.
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
