"""Atomic writes: files and folders that appear complete or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path, renamed to ``path`` after the block and removed if it raises.

    The file is fsynced before the rename and its folder after it, so that a crash leaves the
    old file or the new one, never half of one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        _lock(handle)
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        _fsync(temporary)
        temporary.replace(path)
        _fsync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Replace a UTF-8 text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8")


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder next to ``folder``, renamed to it after the block.

    If another process has made the folder meanwhile, that one stays and this one is removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    handle = os.open(temporary, os.O_RDONLY)
    try:
        _lock(handle)
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        os.close(handle)
        shutil.rmtree(temporary, ignore_errors=True)


def _lock(handle: int) -> None:
    """Show other processes that the file is being written, where the file system has locks."""
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
