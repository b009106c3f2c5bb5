"""The folder of prepared data: its place, its size limit, and what may be removed from it.

Files that are in use are locked by ``hold`` or ``replacing``, and are never removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

LIMIT = 20.0
"""Default of ``$UNMIX_CACHE_LIMIT``, in GB."""
ABANDONED = 600.0
"""Seconds without a write after which an unlocked temporary file is a killed process's."""
ABANDONED_UNLOCKABLE = 86_400.0
"""The same on a file system without locks."""
REMOTE = "remote"
"""Folder of the copies of remote files, which ``--cache-size`` limits, not this module."""
ROOMS = ("betons", "tables", REMOTE)
"""Folders of the cache whose entries are removed one by one."""
_held: dict[Path, int] = {}
"""Locked file -> descriptor, open until this process ends."""


def cache_root() -> Path:
    """Return ``$UNMIX_CACHE``, else ``unmix`` below ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if named := os.environ.get("UNMIX_CACHE"):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "unmix"


def size_limit() -> int:
    """Return the bytes that the cache may take: ``$UNMIX_CACHE_LIMIT`` in GB, else 20 GB.

    Raises:
        ValueError: the variable is no number of GB.
    """
    text = os.environ.get("UNMIX_CACHE_LIMIT", "").strip().lower().removesuffix("gb").strip()
    try:
        limit = float(text or LIMIT)
    except ValueError:
        limit = -1.0
    if not 0 <= limit < float("inf"):
        raise ValueError(f"UNMIX_CACHE_LIMIT={text} is no number of GB, as in UNMIX_CACHE_LIMIT=20")
    return round(limit * 1e9)


def unwritable(error: OSError) -> str:
    """Return the reason why the cache cannot be written, with the variable that moves it."""
    why = error.strerror or error
    return f"the cache {cache_root()} cannot be written ({why}): UNMIX_CACHE names another folder"


@contextmanager
def writing() -> Iterator[None]:
    """Around a write to the cache: name the variable if the folder is read-only.

    Raises:
        ValueError: the file system refuses the write.
    """
    try:
        yield
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise ValueError(unwritable(error)) from error
    except OSError as error:
        if error.errno == errno.EROFS or not cache_root().is_dir():
            raise ValueError(unwritable(error)) from error
        raise


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder of the cache; a ``.beton`` includes its description."""

    path: Path
    bytes: int
    """Bytes on the disk; holes of a sparse file take none."""
    used: float
    """Seconds since 1970."""

    @property
    def is_remote(self) -> bool:
        """Whether it holds pieces of a remote file, which have a limit of their own."""
        return self.path.parent.name == REMOTE


def entries() -> list[Entry]:
    """Return what the cache holds, the least recently used first."""
    root = cache_root()
    found = []
    for place in (root, *(root / name for name in ROOMS)):
        for path in _children(place):
            if path.parent == root and path.name in ROOMS:
                continue
            if place.name == REMOTE and not path.is_dir():
                continue  # a lock, which takes no room
            if path.suffix == ".json" and path.with_suffix("").is_file():
                continue  # counted with its .beton
            with contextlib.suppress(FileNotFoundError):
                found.append(Entry(path, *_measured(path)))
    return sorted(found, key=lambda entry: (entry.used, str(entry.path)))


def _children(place: Path) -> list[Path]:
    return sorted(place.iterdir()) if place.is_dir() else []


def _measured(path: Path) -> tuple[int, float]:
    """Return the bytes on the disk and the time of the last use."""
    stat = path.stat()
    size = stat.st_blocks * 512
    if path.is_dir():
        size += sum(f.lstat().st_blocks * 512 for f in path.rglob("*") if not f.is_dir())
    side = path.with_name(path.name + ".json")
    if side.is_file():
        size += side.stat().st_blocks * 512
    return size, max(stat.st_atime, stat.st_mtime)


def hold(path: Path) -> None:
    """Mark a file or folder as used now, and keep it from removal until this process ends."""
    with contextlib.suppress(OSError):  # a read-only cache
        os.utime(path, (time.time(), path.stat().st_mtime))
    with contextlib.suppress(OSError):  # a file system without locks
        if path in _held:
            if os.path.samestat(os.fstat(_held[path]), path.stat()):
                return
            os.close(_held.pop(path))  # the file was replaced
        handle = os.open(path, os.O_RDONLY)
        _held[path] = handle
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)


def remove(path: Path) -> bool:
    """Remove a file or folder that no process uses; return whether it is gone.

    It is locked until it is gone, so whoever opens it meanwhile waits, and then finds nothing.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        if not _is_unused(handle, path):
            return False
        _delete(path)
    finally:
        os.close(handle)
    return True


def _is_unused(handle: int, path: Path) -> bool:
    """Lock a file or folder unless it is in use or being written; return whether it is not."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return time.time() - _measured(path)[1] >= ABANDONED_UNLOCKABLE
    return not _is_fresh_temporary(path)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
        path.with_name(path.name + ".json").unlink(missing_ok=True)


def _is_fresh_temporary(path: Path) -> bool:
    return is_temporary(path) and time.time() - path.stat().st_mtime < ABANDONED


def is_temporary(path: Path) -> bool:
    """Whether a path is that of a file or folder which is being written."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def make_room(need: int) -> None:
    """Remove killed conversions, then the least recently used files, until ``need`` bytes fit.

    Tables of sizes stay, since they are small, and so does what is in use. Arrays that processes
    have shared (``pipelines.system.shared``) go like files; copies of remote files have a limit of
    their own.

    Raises:
        ValueError: ``need`` is over the limit of the whole cache.
    """
    limit = size_limit()
    if need > limit:
        raise ValueError(
            f"{need / 1e9:.1f} GB do not fit the cache's limit of {limit / 1e9:g} GB: "
            "UNMIX_CACHE_LIMIT sets another"
        )
    remove_abandoned()
    kept = [entry for entry in entries() if not entry.is_remote]
    total = sum(entry.bytes for entry in kept)
    for entry in kept:
        if total + need <= limit:
            return
        if entry.path.suffix in (".beton", ".shared") and remove(entry.path):
            total -= entry.bytes
            log.info("removed %s from the cache, to keep its limit", entry.path.name)


def remove_outdated(path: Path) -> None:
    """Remove the copies of a folder, TITLE-FOLDER-FILES-CONTENT, from before its files changed."""
    *_, folder, files, _ = path.stem.split("-")
    for other in path.parent.glob(f"*-{folder}-*{path.suffix}"):
        same_files = other.stem.split("-")[-3:-1] == [folder, files]  # another selection of them
        if not same_files and remove(other):
            log.info("removed %s, of files that have changed since", other.name)


def remove_abandoned() -> list[Path]:
    """Remove the half files of killed processes; return them."""
    return [e.path for e in entries() if is_temporary(e.path) and remove(e.path)]


def empty() -> tuple[list[Entry], list[Entry]]:
    """Remove everything that no process uses; return what was removed, and what is in use."""
    gone: list[Entry] = []
    used: list[Entry] = []
    for entry in entries():
        (gone if remove(entry.path) else used).append(entry)
    return gone, used
