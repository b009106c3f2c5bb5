"""A remote file: a local path to map, whose bytes are there when they are held.

The file is opened, asked ahead of time for bytes, and held while they are read. Waits, requests and
errors belong to the loop that asks (``pipelines.system.scope``), else to the file:

    file = open_remote("s3://bucket/train.beton", RemoteOptions(Path("cache")))
    file.will_need(ranges)
    with file.held(ranges):
        file.bytes[begin:end]
"""

from __future__ import annotations

import contextlib
import mmap
import os
import time
import weakref
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pipelines.remote.connect import RETRY, Retry, endpoint_of
from pipelines.remote.errors import CHANGED, RemoteError
from pipelines.remote.loop import AHEAD, NEEDED
from pipelines.remote.process import close, loop_of, room_of
from pipelines.remote.room import remove_outdated, require_room
from pipelines.remote.sparse import PIECE, Identity, Pieces, SparseFile, root_of
from pipelines.remote.store import RemoteObject, open_object
from pipelines.remote.transfer import Counters, Transfer
from pipelines.remote.url import title_of
from pipelines.system import page_cache
from pipelines.system.page_cache import Ranges
from pipelines.system.scope import Interrupted, Scope, current_scope
from pipelines.system.stored_file import Bytes, StoredFile

LOOK_AGAIN = 0.5
"""Seconds after which a step asks again for pieces that did not come; then twice as many."""
LOOK_AT = 64
"""Pieces that are looked at together: a wait for a whole file looks at each a few times only."""


@dataclass(frozen=True)
class RemoteOptions:
    """Where remote files are kept, and how they are fetched; no part of a run's identity."""

    cache_dir: Path
    cache_size: int | None = None
    """Bytes that all remote files below ``cache_dir`` may take; None: as much as they need."""
    connections: int = 32
    """Requests at a time, of a process."""
    retry: Retry = RETRY


class RemoteFile(StoredFile):
    """A remote file, opened. It can be pickled, and then reads the same version elsewhere."""

    def __init__(
        self, source: RemoteObject, options: RemoteOptions, crc: Sequence[int] | None = None
    ) -> None:
        root = root_of(options.cache_dir)
        endpoint = endpoint_of(source.url)
        identity = Identity(source.title, source.version, source.size, endpoint=endpoint)
        if crc is not None and len(crc) != identity.pieces:
            raise RemoteError(
                f"{source.title}: {identity.pieces:,} pieces, and {len(crc):,} checksums in its "
                ".beton.json: they are not of one version. Write both again"
            )
        self._source, self._options, self._crc = source, options, crc
        self._pid = os.getpid()
        self._file = SparseFile(root / identity.folder, identity)
        self._transfer = Transfer(source, self._file, room_of(root, options.cache_size), crc)
        self._pins = self._file.pin_all() if options.cache_size is None else None
        self._loop = loop_of(self._transfer, options.connections)
        self._scope = Scope()
        self._end = weakref.finalize(
            self, close, self._transfer, self._pins, (self._pid, options.connections)
        )

    @property
    def path(self) -> Path:
        """The local file, sparse, of the object's size."""
        return self._file.path

    @property
    def title(self) -> str:
        """What a person calls it: its URL."""
        return self._source.title

    @property
    def size(self) -> int:
        """Bytes of the object."""
        return self._source.size

    @property
    def counters(self) -> Counters:
        """What this process has fetched, and waited for."""
        return self._transfer.counters

    @cached_property
    def bytes(self) -> Bytes:
        """The whole file, memory-mapped read-only; what is not here reads as zeros."""
        return np.frombuffer(self._map, np.uint8)

    @cached_property
    def _map(self) -> mmap.mmap:
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def read(self, begin: int, size: int) -> Bytes:
        """Wait for a piece of the file, and return a copy.

        Raises:
            RemoteError: as ``held``.
        """
        with self.held(np.array([[begin, begin + size]])):
            return self.bytes[begin : begin + size].copy()

    @property
    def options(self) -> RemoteOptions:
        """Where it is kept, and how it is fetched."""
        return self._options

    def missing(self, ranges: Ranges | None = None) -> int:
        """Return the bytes that are not here yet: whole pieces of ranges (default: of all)."""
        pieces = np.arange(self._file.identity.pieces)
        if ranges is not None:
            pieces = self._file.pieces_of(ranges)
        return len(self._file.missing(pieces)) * PIECE

    def will_need(self, ranges: Ranges) -> None:
        """Ask for byte ranges, begin and end, (k, 2); returns at once.

        Raises:
            RemoteError: an earlier request failed.
        """
        self._check_process()
        scope = current_scope() or self._scope
        scope.raise_error()
        pieces = self._file.pieces_of(ranges)
        self._transfer.expect(pieces, scope)
        missing = self._file.missing(pieces)
        if len(missing):
            self._loop.submit(self._transfer, missing, AHEAD, scope)

    @contextlib.contextmanager
    def held(self, ranges: Ranges) -> Iterator[None]:
        """Wait for byte ranges, begin and end, (k, 2), and keep them during the block.

        Raises:
            RemoteError: they cannot be fetched, or not be written.
            Interrupted: the loop that asks ends before they are here.
        """
        self._check_process()
        pieces = self._file.pieces_of(ranges)
        pinned = self._file.pinned(pieces) if self._pins is None else contextlib.nullcontext()
        with pinned:
            self._wait(pieces)
            self.counters.bytes_held += int((ranges[:, 1] - ranges[:, 0]).sum())
            yield
            self._file.record.used[pieces] = time.time()

    def ensure(self, ranges: Ranges) -> None:
        """Wait for byte ranges, begin and end, (k, 2).

        Raises:
            RemoteError: as ``held``.
        """
        with self.held(ranges):
            pass

    def forget(self, ranges: Ranges) -> None:
        """Drop the bytes from this map and the page cache; they stay on the disk."""
        if "_map" in vars(self):
            for begin, end in page_cache.whole_pages(ranges).tolist():
                self._map.madvise(mmap.MADV_DONTNEED, begin, end - begin)
        page_cache.forget(self.path, ranges)

    def close(self) -> None:
        """End the requests, and make what is here outlast a reboot; maps stay valid."""
        self._end()

    def _wait(self, pieces: Pieces) -> None:
        pieces = self._file.missing(pieces)
        if not len(pieces):
            return
        start, transfer = time.monotonic(), self._transfer
        scope = current_scope() or self._scope
        scope.error = None  # what failed ahead is asked for again
        wanted = frozenset(pieces.tolist())
        transfer.wanted.append(wanted)
        here, patience = 0, LOOK_AGAIN
        try:
            self._loop.submit(transfer, pieces, NEEDED, scope)
            asked = time.monotonic()
            while (here := self._arrived(pieces, here, scope)) < len(pieces):
                if scope.closed:
                    raise Interrupted
                scope.raise_error()
                self._check_loop()
                if time.monotonic() - asked > patience:
                    missing = self._file.missing(pieces[here:])
                    self._loop.submit(transfer, missing, NEEDED, scope)
                    asked, patience = time.monotonic(), 2 * patience
        finally:
            transfer.wanted.remove(wanted)
            self.counters.seconds_waited += time.monotonic() - start

    def _arrived(self, pieces: Pieces, here: int, scope: Scope) -> int:
        """Return how many of the first pieces are here, at least; wait a while for a change."""
        seen = scope.changes
        while here < len(pieces) and not len(self._file.missing(pieces[here : here + LOOK_AT])):
            here += LOOK_AT
        if here < len(pieces) and scope.error is None:
            scope.wait(seen, LOOK_AGAIN)
        return here

    def _check_loop(self) -> None:
        if not (self._end.alive and self._loop.alive()):
            raise RemoteError(f"{self.title}: closed")

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise RemoteError(
                f"{self.title}: opened before a fork, which it does not survive: start processes "
                "by spawn or forkserver"
            )
        if not self._end.alive:
            raise RemoteError(f"{self.title}: closed")

    def __reduce__(self) -> tuple[object, ...]:
        return _reopened, (self._source, self._options, self._crc)


def open_remote(url: str, options: RemoteOptions, crc: Sequence[int] | None = None) -> RemoteFile:
    """Open the object of a URL; ``crc`` has a checksum for each of its pieces.

    Raises:
        RemoteError: it cannot be read, or its cache cannot be used.
    """
    return open_all([url], options, None if crc is None else [crc])[0]


def open_all(
    urls: Sequence[str], options: RemoteOptions, crcs: Sequence[Sequence[int] | None] | None = None
) -> list[RemoteFile]:
    """Open several objects, which takes about as long as one.

    Raises:
        RemoteError: one cannot be read, the cache cannot be used, or the disk is too small.
    """
    with ThreadPoolExecutor(min(options.connections, max(1, len(urls)))) as pool:
        sources = list(pool.map(lambda url: open_object(url, options.retry), urls))
    crcs = crcs or [None] * len(sources)
    try:
        files = [RemoteFile(s, options, crc) for s, crc in zip(sources, crcs, strict=True)]
    except OSError as error:
        raise RemoteError(
            f"{options.cache_dir}: cannot be written ({error.strerror}); --cache-dir names another "
            "folder for remote files"
        ) from error
    root = root_of(options.cache_dir)
    remove_outdated(root, {f.title: (endpoint_of(f.title), f.path.parent) for f in files})
    if options.cache_size is None:
        require_room(root, files[0].title, [(f.path, f.size) for f in files])
    return files


def piece_checksums(path: Path) -> list[int]:
    """Return the CRC-32 of each piece of a local file, for its ``.beton.json``."""
    found = []
    with path.open("rb") as file:
        while data := file.read(PIECE):
            found.append(zlib.crc32(data))
    return found


def _reopened(
    source: RemoteObject, options: RemoteOptions, crc: Sequence[int] | None
) -> RemoteFile:
    now = open_object(source.url, options.retry)
    if (now.size, now.version) != (source.size, source.version):
        how = f"ETag {source.version} then, {now.version} now"
        raise RemoteError(CHANGED.format(url=title_of(source.url), how=how))
    return RemoteFile(source, options, crc)
