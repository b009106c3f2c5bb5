"""Fetching pieces of one file: claim, look again, reserve room, get, write, record."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import weakref
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.remote.errors import RemoteError
from pipelines.remote.locks import Run, locks
from pipelines.remote.record import PRESENT
from pipelines.remote.room import AHEAD as STAYS
from pipelines.remote.room import Room
from pipelines.remote.sparse import Pieces, SparseFile, runs
from pipelines.remote.store import RemoteObject
from pipelines.system.scope import Scope

log = logging.getLogger(__name__)

Asked = dict[Scope, set[int]]
"""Who asked for pieces that one task fetches, and for which."""
PATIENCE = 0.1
"""Seconds that a needed piece waits for others to be unpinned, before it exceeds the limit."""


@dataclass
class Counters:
    """What one process has fetched for one file, and what that was good for."""

    bytes_fetched: int = 0
    requests: int = 0
    seconds_waited: float = 0.0
    """How long steps waited for pieces."""
    bytes_held: int = 0
    """Bytes that steps asked for; more were fetched if pieces hold other rows too."""

    @property
    def over_read(self) -> float:
        """Bytes fetched for each byte that steps asked for: over 1 in a first epoch, then less."""
        return self.bytes_fetched / max(1, self.bytes_held)


class Transfer:
    """One file's pieces on their way from the store to the disk.

    ``fetch`` runs in the loop's thread, everything else in any.
    """

    def __init__(
        self, source: RemoteObject, file: SparseFile, room: Room, crc: Sequence[int] | None
    ) -> None:
        self.source, self.file, self.room, self.crc = source, file, room, crc
        self.counters = Counters()
        self.wanted: list[frozenset[int]] = []
        """Pieces that are waited for, a set for each wait."""
        self._expected: weakref.WeakKeyDictionary[Scope, NDArray[np.bool_]]
        self._expected = weakref.WeakKeyDictionary()
        """Pieces that a scope has asked for ahead, (pieces,), where room is limited."""
        self._on_way: dict[int, Asked] = {}
        """Pieces on their way, and who asked for them."""
        self._unsaved = False
        self._saving = threading.Lock()

    def expect(self, pieces: Pieces, scope: Scope) -> None:
        """Keep pieces, for a while, from removal for others that are not waited for yet."""
        self.file.record.used[pieces] = time.time() + STAYS
        if self.room.limit is not None:
            count = self.file.identity.pieces
            self._expected.setdefault(scope, np.zeros(count, np.bool_))[pieces] = True
            scope.at_close(self._expect_no_more)

    def _expect_no_more(self, scope: Scope) -> None:
        """Let what only this scope asked for ahead, and did not use, be removed from now on."""
        expected = self._expected.pop(scope, None)
        if expected is not None:
            for other in tuple(self._expected.values()):
                expected &= ~other
            used = self.file.record.used
            used[expected] = np.minimum(used[expected], time.time())

    async def fetch(self, run: Run, needed: bool, asked: Asked) -> None:
        """Fetch the pieces of a run that are neither here nor on their way.

        ``asked`` has the scope that asks; it is filled with the pieces, and others may join it.
        """
        (scope,) = asked
        new = []
        for piece in range(*run):
            if others := self._on_way.get(piece):  # empty: it is being cancelled
                others.setdefault(scope, set()).add(piece)
            else:
                new.append(piece)
        missing = self.file.missing(_pieces(new))
        asked[scope].update(missing.tolist())
        self._on_way.update(dict.fromkeys(missing.tolist(), asked))
        error: Exception | None = None
        try:
            for part in runs(missing):
                await self._claimed(part, needed, asked)
        except OSError as refused:
            error = RemoteError(
                f"{self.source.title}: its copy in {self.file.folder.parent} cannot be used "
                f"({refused.strerror or refused}); --cache-dir names another folder"
            )
        except Exception as failed:
            error = failed
        finally:
            self._leave(missing.tolist(), asked)
            for one, pieces in asked.items():
                left = len(self.file.missing(_pieces(sorted(pieces))))
                one.notify(error if left else None)

    async def _claimed(self, run: Run, needed: bool, asked: Asked) -> None:
        """Claim a run, look at it again, and fetch what another process has not."""
        with locks(self.file.folder / "locks") as claim:
            wait = 0.001
            while not claim.exclusive(run):
                await asyncio.sleep(wait)
                wait = min(2 * wait, 0.02)
            for part in runs(self.file.missing(_pieces(range(*run)))):
                if await self._reserved(part, needed):
                    try:
                        await self._get(part, asked)
                    finally:
                        self.file.give_up(part)
                else:
                    self._leave(range(*part), asked)

    async def _reserved(self, run: Run, needed: bool) -> bool:
        """Wait for room; return False where a piece that is only expected to be needed has none."""
        until = time.monotonic() + PATIENCE
        while True:
            urgent = needed or not all(wait.isdisjoint(range(*run)) for wait in tuple(self.wanted))
            room = self.room.reserve(self.file, run, urgent, time.monotonic() > until)
            if room is not None:
                return room
            await asyncio.sleep(0.001)

    def _leave(self, pieces: Iterable[int], asked: Asked) -> None:
        """Let pieces be asked for again."""
        for piece in pieces:
            if self._on_way.get(piece) is asked:
                del self._on_way[piece]

    async def _get(self, run: Run, asked: Asked, last: bool = False) -> None:
        """Fetch consecutive pieces, and record each when it is written."""
        file, piece = self.file, self.file.identity.piece
        at, end = file.bytes_of(run)
        crc, wrong = 0, []
        self.counters.requests += 1
        async with contextlib.aclosing(self.source.chunks(at, end)) as chunks:
            async for chunk in chunks:
                self.counters.bytes_fetched += len(chunk)
                while chunk:
                    number = at // piece
                    edge = min((number + 1) * piece, end)
                    part, chunk = chunk[: edge - at], chunk[edge - at :]
                    file.write(part, at)
                    at += len(part)
                    crc = zlib.crc32(part, crc) if self.crc is not None else 0
                    if at < edge:
                        continue
                    if self.crc is not None and crc != self.crc[number]:
                        wrong.append(number)
                    else:
                        file.record.state[number] = PRESENT
                    crc = 0
                self._unsaved = True
                for scope in asked:
                    scope.notify()
        if at < end:
            raise RemoteError(f"{self.source.title}: the reply ended at byte {at:,} of {end:,}")
        await self._repeat(wrong, asked, last)

    async def _repeat(self, wrong: list[int], asked: Asked, last: bool) -> None:
        """Fetch pieces with a wrong checksum once more."""
        for number in wrong:
            begin, end = self.file.bytes_of((number, number + 1))
            if last:
                raise RemoteError(
                    f"{self.source.title}: bytes {begin:,} to {end:,} have another checksum than "
                    "its .beton.json records, twice. The object, or the way to it, is damaged: "
                    "write it again with tools/write_ffcv.py"
                )
            log.warning("%s: wrong checksum at byte %d; fetched again", self.source.title, begin)
            await self._get((number, number + 1), asked, last=True)

    def sync(self) -> None:
        """Make what is here outlast a reboot, if anything has come since the last time."""
        with self._saving:
            if self._unsaved and not self.file.closed:
                self._unsaved = False
                try:
                    self.file.sync()
                except OSError as error:  # then a reboot loses it, and nothing else
                    log.warning("%s: not yet on the disk (%s)", self.file.path, error.strerror)

    def close(self) -> None:
        """Close the local files, after a sync that runs."""
        with self._saving:
            self.file.close()


def _pieces(numbers: Sequence[int]) -> Pieces:
    return np.fromiter(numbers, np.int64, len(numbers))
