"""A sparse local copy of one version of an object, shared by the processes of a machine.

``CACHE/remote/<hash of URL, version, size, piece and server>/`` holds the file under its own name,
``present`` (the record), ``locks`` (claims of pieces in [0, n), pins in [n, 2n)) and
``meta.json``. A piece is claimed, looked at again, fetched, written, and then recorded. A pinned
piece is not removed. The folder is locked (flock) while it is open, so that nobody deletes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.remote import disk, errors, record
from pipelines.remote.locks import Locks, Run, locks
from pipelines.remote.record import ABSENT, PRESENT, RESERVED, Record
from pipelines.system.atomic import building
from pipelines.system.cache import REMOTE

PIECE = 1 << 18
"""Bytes that are fetched, recorded and removed as one."""
OWN_FILES = ("", "present", "locks", "boot", "meta.json")
Pieces = NDArray[np.int64]
"""Numbers of pieces, ascending and distinct."""


@dataclass(frozen=True)
class Identity:
    """What a folder is a copy of."""

    url: str
    """Without a query."""
    version: str
    size: int
    piece: int = PIECE
    endpoint: str = ""
    """The server, where a variable such as AWS_ENDPOINT_URL names one."""

    @property
    def folder(self) -> str:
        """The name of the folder."""
        parts = [self.url, self.version, str(self.size), str(self.piece)]
        text = "\0".join([*parts, self.endpoint] if self.endpoint else parts)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def name(self) -> str:
        """The name of the file in the folder: its own, which may be cut."""
        name = self.url.rpartition("/")[2][-100:]
        return f"object-{name}" if name in OWN_FILES else name

    @property
    def pieces(self) -> int:
        """How many pieces the file has."""
        return -(-self.size // self.piece)


def root_of(cache_dir: Path) -> Path:
    """Return the folder of the copies."""
    return cache_dir / REMOTE


class SparseFile:
    """The local file, its record and its locks, as one process has them open.

    Raises:
        RemoteError: a disk that is no place for it.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, identity: Identity) -> None:
        self.folder, self.identity = folder, identity
        self.path = folder / identity.name
        with contextlib.ExitStack() as opened:  # closed if anything fails
            self._lock = _open_locked(folder, identity)
            opened.callback(os.close, self._lock)
            self.data = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            opened.callback(os.close, self.data)
            self.record = self._recorded()
            opened.pop_all()
        self.closed = False

    def _recorded(self) -> Record:
        """Open the record; the first after a reboot counts what outlived it."""
        path, pieces = self.folder / "present", self.identity.pieces
        with locks(self.folder / "boot") as boot:
            while not boot.exclusive((0, 1)):
                time.sleep(0.001)
            if os.fstat(self.data).st_size != self.identity.size:  # a power cut after it was made
                os.ftruncate(self.data, self.identity.size)
                record.create(path, pieces)
            found = Record(path, pieces)
            if found.boot != record.boot_id():
                found.start_boot(self.data)
        return found

    def pieces_of(self, ranges: NDArray[np.int64]) -> Pieces:
        """Return the pieces of byte ranges, begin and end, (k, 2)."""
        ranges = ranges[ranges[:, 1] > ranges[:, 0]]
        if not len(ranges):
            return np.empty(0, np.int64)
        first = ranges[:, 0] // self.identity.piece
        count = (ranges[:, 1] - 1) // self.identity.piece + 1 - first
        start = np.cumsum(count) - count
        numbers = np.arange(count.sum()) + np.repeat(first - start, count)
        return np.unique(numbers)

    def bytes_of(self, run: Run) -> tuple[int, int]:
        """Return begin and end of a run of pieces."""
        return run[0] * self.identity.piece, min(run[1] * self.identity.piece, self.identity.size)

    def missing(self, pieces: Pieces) -> Pieces:
        """Return those that are not here."""
        absent: Pieces = pieces[self.record.state[pieces] != PRESENT]
        return absent

    def open_locks(self) -> Locks:
        """Return a descriptor of its own for claims or pins."""
        return Locks(self.folder / "locks")

    @contextlib.contextmanager
    def pinned(self, pieces: Pieces) -> Iterator[None]:
        """Keep pieces from removal, whether they are here yet or not."""
        n = self.identity.pieces
        with locks(self.folder / "locks") as pins:
            for first, last in runs(pieces):
                pins.shared((n + first, n + last))
            yield

    def pin_all(self) -> Locks:
        """Keep every piece from removal until the returned locks are closed."""
        pins = self.open_locks()
        pins.shared((self.identity.pieces, 2 * self.identity.pieces))
        return pins

    def write(self, data: memoryview, at: int) -> None:
        """Write bytes at their place.

        Raises:
            RemoteError: the disk is full.
        """
        try:
            while data:
                done = os.pwrite(self.data, data, at)
                data, at = data[done:], at + done
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise errors.disk_full(self.folder.parent, self.identity.url) from error
            raise

    def remove(self, piece: int) -> bool:
        """Free a piece's blocks unless it is pinned or being fetched; return whether it is gone."""
        n = self.identity.pieces
        with locks(self.folder / "locks") as mine:
            if not mine.exclusive((n + piece, n + piece + 1)):
                return False
            if not mine.exclusive((piece, piece + 1)):
                return False
            self.record.state[piece] = ABSENT
            self.record.used[piece] = 0
            disk.punch(self.data, *self.bytes_of((piece, piece + 1)))
        return True

    def reserve(self, run: Run) -> None:
        """Count the absent pieces of a claimed run as room that is taken."""
        state = self.record.state[slice(*run)]
        state[state == ABSENT] = RESERVED

    def give_up(self, run: Run) -> None:
        """Count the pieces of a claimed run that did not come as absent again."""
        state = self.record.state[slice(*run)]
        state[state == RESERVED] = ABSENT

    def sync(self) -> None:
        """Make what is here outlast a reboot."""
        self.record.sync(self.data)

    def close(self) -> None:
        """Close the files; maps of the local file stay valid."""
        if not self.closed:
            self.closed = True
            os.close(self.data)
            os.close(self._lock)
            self.data = self._lock = -1  # the numbers may soon be those of other files


def runs(pieces: Pieces, longest: int | None = None) -> list[Run]:
    """Return consecutive pieces as runs, of at most ``longest`` pieces.

    >>> runs(np.array([1, 2, 3, 7]), longest=2)
    [(1, 3), (3, 4), (7, 8)]
    """
    if not len(pieces):
        return []
    cuts = np.flatnonzero(np.diff(pieces) != 1) + 1
    found = []
    for part in np.split(pieces, cuts):
        first, last = int(part[0]), int(part[-1]) + 1
        step = longest or last - first
        found += [(at, min(at + step, last)) for at in range(first, last, step)]
    return found


def _open_locked(folder: Path, identity: Identity) -> int:
    """Make the folder unless it is there, and lock it against deletion."""
    while True:
        if not (folder / "meta.json").is_file():
            folder.parent.mkdir(parents=True, exist_ok=True)
            disk.require_local(folder.parent)
            with building(folder) as new:
                _fill(new, identity)
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(handle, fcntl.LOCK_SH)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), (folder / ".").stat()):
                    os.utime(folder)
                    return handle
            os.close(handle)  # deleted meanwhile


def _fill(folder: Path, identity: Identity) -> None:
    with (folder / identity.name).open("wb") as file:
        file.truncate(identity.size)
    record.create(folder / "present", identity.pieces)
    (folder / "locks").touch()
    text = {"url": identity.url, "version": identity.version, "size": identity.size}
    text |= {"piece": identity.piece, "endpoint": identity.endpoint}
    (folder / "meta.json").write_text(json.dumps(text, indent=1) + "\n", "utf-8")


def open_folder(folder: Path) -> SparseFile:
    """Open the copy in a folder, whatever it is a copy of; for removal.

    Raises:
        OSError, ValueError: it is none.
    """
    meta = json.loads((folder / "meta.json").read_text("utf-8"))
    identity = Identity(meta["url"], meta["version"], meta["size"], meta["piece"])
    return SparseFile(folder, identity)
