"""Locks on pieces that end with their holder, even when it is killed.

Open file description locks (Linux): a lock belongs to the descriptor that took it, so threads
exclude each other as processes do, and closing the descriptor frees everything it holds.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

_FLOCK = "hhqqi4x"  # struct flock: l_type, l_whence, l_start, l_len, l_pid
Run = tuple[int, int]
"""Consecutive pieces: first, and one past the last."""


class Locks:
    """Locks on byte ranges of a file; nothing is written to it."""

    def __init__(self, path: Path) -> None:
        self._handle: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def exclusive(self, run: Run) -> bool:
        """Take a range alone; return False when another descriptor has a part of it."""
        return self._set(fcntl.F_WRLCK, run, wait=False)

    def shared(self, run: Run) -> None:
        """Take a range together with other sharers; wait for an exclusive holder."""
        self._set(fcntl.F_RDLCK, run, wait=True)

    def free(self, run: Run) -> None:
        """Give a range back."""
        self._set(fcntl.F_UNLCK, run, wait=False)

    def close(self) -> None:
        """Give everything back."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _set(self, kind: int, run: Run, wait: bool) -> bool:
        assert self._handle is not None
        request = struct.pack(_FLOCK, kind, os.SEEK_SET, run[0], run[1] - run[0], 0)
        command = fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK
        try:
            fcntl.fcntl(self._handle, command, request)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True


@contextlib.contextmanager
def locks(path: Path) -> Iterator[Locks]:
    """Yield a descriptor of its own, and free its locks after the block."""
    held = Locks(path)
    try:
        yield held
    finally:
        held.close()
