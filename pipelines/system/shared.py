"""Arrays that the processes of a machine make once and map, instead of each making its own.

An array is a file below the cache. The first process that asks makes it, under a lock; the others
wait for the lock and map the file. If the maker is killed, the system frees the lock, and the next
process makes the array again. A mapped file stays locked, so that nothing removes it
(``pipelines.system.cache``).

The file is renamed into place when it is complete, but it is not flushed to the disk. Its name
therefore has the machine's boot in it, and a crash of the machine leaves nothing that is read.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import mmap
import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from pipelines.system.cache import cache_root, make_room, remove
from pipelines.system.progress import print_once

log = logging.getLogger(__name__)

SUFFIX = ".shared"
"""Of the files, in the folder ``tables`` of the cache."""
POLL = 0.01
"""Seconds between two looks at a file whose lock changes hands."""

Fill = Callable[[NDArray[Any]], None]
"""Fills a new array in place."""


def shared(
    kind: str, key: str, length: int, dtype: np.dtype[Any], fill: Fill, *, keep: bool = False
) -> NDArray[Any]:
    """Return the array (length,) that ``fill`` makes, one copy on this machine.

    What a process writes to it is seen by itself alone (PyTorch wants arrays that can be written).
    Where the cache cannot hold it, this process makes its own copy in memory, and a line says so.

    Args:
        kind: what the array is: a part of the file's name.
        key: what the content depends on. Files of the same kind and another key that no process
            has mapped are removed, unless ``keep``.
        length: number of elements, at least 1.
        dtype: their type.
        fill: makes the content.
        keep: keep unused files of the kind.

    Raises:
        Exception: what ``fill`` raises.
    """
    path = cache_root() / "tables" / f"{kind}-{key}-{boot()}{SUFFIX}"
    size = length * dtype.itemsize
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while (memory := _mapped(path, size)) is None:
            if _make(path, size, lambda memory: fill(memory.view(dtype))):
                _sweep(path, kind, keep)
    except (OSError, NoRoom) as error:
        print_once(
            log,
            f"the cache {cache_root()} cannot hold {size / 1e6:,.0f} MB for the processes to share "
            f"({error}): each makes its own copy. UNMIX_CACHE names another folder",
        )
        own = np.empty(length, dtype)
        fill(own)
        return own
    return memory.view(dtype)


def one_copy(kind: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return an array that all processes of a machine have as one copy."""
    key = digest_of(str(array.dtype), array)
    return shared(kind, key, len(array), array.dtype, lambda out: np.copyto(out, array))


def digest_of(numbers: str, array: NDArray[Any]) -> str:
    """Return a digest of an array and of the numbers beside it, 16 hex digits: a part of a key."""
    digest = hashlib.sha256(numbers.encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


class NoRoom(Exception):
    """The array exceeds the cache's limit."""


@cache
def boot() -> str:
    """Return a word that is another one after each start of the machine."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    return str(int(psutil.boot_time()))


def _mapped(path: Path, size: int) -> NDArray[np.uint8] | None:
    """Return the file's bytes, mapped and locked until the last array is gone; None without it."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if not _is(path, handle):  # it was removed meanwhile
            return None
        if (found := os.fstat(handle).st_size) != size:
            raise OSError(f"{path.name} is damaged: {found:,} bytes instead of {size:,}")
        with contextlib.suppress(OSError):
            os.utime(handle)
        # the map has a descriptor of its own, of the same lock
        return np.frombuffer(mmap.mmap(handle, size, access=mmap.ACCESS_COPY), np.uint8)
    except BlockingIOError:  # a process is removing it
        return None
    finally:
        os.close(handle)


def _make(path: Path, size: int, fill: Fill) -> bool:
    """Make the file, or wait for the process that makes it; return whether it was made here."""
    temporary = path.with_name(f".{path.name}.tmp")
    handle = os.open(temporary, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(handle, fcntl.LOCK_SH)  # until it is made, or its maker is gone
            time.sleep(POLL)
            return False
        if path.exists() or not _is(temporary, handle):
            return False
        try:
            _write(handle, size, fill)
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return True
    finally:
        os.close(handle)


def _write(handle: int, size: int, fill: Fill) -> None:
    try:
        make_room(size)
    except ValueError as error:
        raise NoRoom(str(error)) from error
    os.ftruncate(handle, 0)  # what a killed process has left
    os.posix_fallocate(handle, 0, size)  # a full disk is an error here, and no signal later
    fill(np.frombuffer(mmap.mmap(handle, size), np.uint8))


def _is(path: Path, handle: int) -> bool:
    """Whether ``path`` is the open file."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _sweep(path: Path, kind: str, keep: bool) -> None:
    """Remove files that no process has mapped: of the kind, and of earlier boots."""
    for other in path.parent.glob(f"*{SUFFIX}"):
        outdated = not other.name.endswith(f"-{boot()}{SUFFIX}")
        if other != path and (outdated or (other.name.startswith(f"{kind}-") and not keep)):
            remove(other)
