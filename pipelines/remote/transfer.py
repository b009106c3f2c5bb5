"""Fetching pieces of one file: claim, look again, reserve room, get, write, record."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.remote.errors import RemoteError
from pipelines.remote.locks import Run, locks
from pipelines.remote.record import PRESENT
from pipelines.remote.room import Room
from pipelines.remote.sparse import Pieces, SparseFile, runs
from pipelines.remote.store import RemoteObject

log = logging.getLogger(__name__)

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
        self.changed = threading.Condition()
        """Notified when pieces have come, or an error has."""
        self.error: Exception | None = None
        self.interruptions = 0
        self.wanted: set[int] = set()
        """Pieces that a step waits for."""
        self._in_flight: set[int] = set()
        self._unsaved = False
        self._saving = threading.Lock()

    async def fetch(self, run: Run, needed: bool) -> None:
        """Fetch the pieces of a run that are neither here nor on their way."""
        span = [piece for piece in range(*run) if piece not in self._in_flight]
        missing = self.file.missing(_pieces(span))
        self._in_flight.update(missing.tolist())
        try:
            for part in runs(missing):
                await self._claimed(part, needed)
        except OSError as error:
            self._note(
                RemoteError(
                    f"{self.source.title}: its copy in {self.file.folder.parent} cannot be used "
                    f"({error.strerror or error}); --cache-dir names another folder"
                )
            )
        except Exception as error:
            self._note(error)
        finally:
            self._in_flight.difference_update(missing.tolist())
            self._note(None)

    async def _claimed(self, run: Run, needed: bool) -> None:
        """Claim a run, look at it again, and fetch what another process has not."""
        with locks(self.file.folder / "locks") as claim:
            wait = 0.001
            while not claim.exclusive(run):
                await asyncio.sleep(wait)
                wait = min(2 * wait, 0.02)
            for part in runs(self.file.missing(_pieces(range(*run)))):
                if await self._reserved(part, needed):
                    try:
                        await self._get(part)
                    finally:
                        self.file.give_up(part)

    async def _reserved(self, run: Run, needed: bool) -> bool:
        """Wait for room; return False where a piece that is only expected to be needed has none."""
        until = time.monotonic() + PATIENCE
        while True:
            urgent = needed or not self.wanted.isdisjoint(range(*run))
            room = self.room.reserve(self.file, run, urgent, time.monotonic() > until)
            if room is None:
                await asyncio.sleep(0.001)
                continue
            if not room:
                self._in_flight.difference_update(range(*run))
            return room

    async def _get(self, run: Run, last: bool = False) -> None:
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
                self._note(None)
        if at < end:
            raise RemoteError(f"{self.source.title}: the reply ended at byte {at:,} of {end:,}")
        await self._repeat(wrong, last)

    async def _repeat(self, wrong: list[int], last: bool) -> None:
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
            await self._get((number, number + 1), last=True)

    def interrupt(self) -> None:
        """Wake whoever waits for pieces, to give up."""
        with self.changed:
            self.interruptions += 1
            self.changed.notify_all()

    def _note(self, error: Exception | None) -> None:
        with self.changed:
            self.error = error or self.error
            self.changed.notify_all()

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
