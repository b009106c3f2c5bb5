"""Which pieces of a remote file are here: a record that all processes of a machine share.

A file mapped by all of them: a header, then arrays of one entry a piece. ``state`` holds for the
present boot. ``durable`` holds after the next as well: it is a copy of ``state`` from before an
fdatasync of the data. The order of writing is everything: bytes, then state; state, then a hole.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ABSENT, PRESENT, RESERVED = 0, 1, 2
"""States of a piece; RESERVED counts as room that is taken, since it is being fetched."""
HEADER = 4096
_BOOT = slice(0, 64)
_EVICTING = 64


def boot_id() -> bytes:
    """Return what names the present boot of this machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()


def create(path: Path, pieces: int) -> None:
    """Write the record of a file of which nothing is here."""
    with path.open("wb") as file:
        file.write(boot_id().ljust(64, b"\0"))
        file.truncate(HEADER + 10 * pieces)


class Record:
    """The record of one file, mapped."""

    def __init__(self, path: Path, pieces: int) -> None:
        with path.open("r+b") as file:
            if os.fstat(file.fileno()).st_size != HEADER + 10 * pieces:
                create(path, pieces)  # a power cut after it was made
            # blocks for all of it: to write in a map of a hole kills the process on a full disk
            os.posix_fallocate(file.fileno(), 0, HEADER + 10 * pieces)
            self._map = mmap.mmap(file.fileno(), HEADER + 10 * pieces)
        self._header = np.frombuffer(self._map, np.uint8, HEADER)
        self.used: NDArray[np.float64] = np.frombuffer(self._map, np.float64, pieces, HEADER)
        """When a piece was last needed, or is expected to be, seconds since 1970."""
        at = HEADER + 8 * pieces
        self.state: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8, pieces, at)
        self.durable: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8, pieces, at + pieces)

    @property
    def boot(self) -> bytes:
        """The boot for which ``state`` holds."""
        return self._header[_BOOT].tobytes().rstrip(b"\0")

    @property
    def evicting(self) -> bool:
        """Whether a piece was ever removed: then ``durable`` proves nothing."""
        return bool(self._header[_EVICTING])

    def will_evict(self) -> None:
        """Record durably, before the first hole, that pieces are removed."""
        if not self.evicting:
            self._header[_EVICTING] = 1
            self._map.flush(0, HEADER)

    def start_boot(self, data: int) -> None:
        """Count what outlived a reboot, and nothing else; ``data`` is the file's descriptor."""
        if self.evicting:
            size = os.fstat(data).st_size
            os.ftruncate(data, 0)
            os.ftruncate(data, size)
            self.durable[:] = 0
        self.state[:] = self.durable
        self._header[_EVICTING] = 0
        self._header[_BOOT] = np.frombuffer(boot_id().ljust(64, b"\0"), np.uint8)
        self._map.flush()

    def sync(self, data: int) -> None:
        """Make what is present outlast a reboot."""
        here = self.state == PRESENT
        os.fdatasync(data)
        self.durable |= here
        self._map.flush()
