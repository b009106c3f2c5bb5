"""A stored file as a Python file object, for readers that go through it once."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

import numpy as np

from pipelines.system.scope import Scope
from pipelines.system.stored_file import LocalFile, StoredFile

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

AHEAD = 1 << 26
"""Bytes that are requested ahead of a reader: eight requests of 8 MiB."""


class StoredReader(io.RawIOBase):
    """Reads a stored file; the bytes that follow the place of reading are requested ahead.

    What it requested ends when it is closed.
    """

    def __init__(self, file: StoredFile, size: int, ahead: int = AHEAD) -> None:
        self._file, self._size, self._ahead = file, size, ahead
        self._at = self._requested = self._passed = 0
        self._scope = Scope()

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the place of the next read."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move the place of the next read, and return it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(start + offset, 0)
        return self._at

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill a buffer as far as the file goes; return the number of bytes."""
        target = memoryview(buffer).cast("B")
        count = max(min(len(target), self._size - self._at), 0)
        if count:
            self._scope.run(self._fill, target[:count])
        return count

    def _fill(self, target: memoryview) -> None:
        self._request(self._at + len(target))
        target[:] = self._file.read(self._at, len(target)).data
        self._at += len(target)

    def close(self) -> None:
        """Drop what was requested and has not come."""
        self._scope.close()
        super().close()

    def finish(self) -> None:
        """Wait for the bytes before the place of reading, also for those that were not read.

        They count as used from now on, and no longer as needed soon.
        """
        self._scope.run(self._finish)

    def _finish(self) -> None:
        if self._passed < self._at:
            with self._file.held(np.array([[self._passed, self._at]])):
                self._passed = self._at

    def _request(self, needed: int) -> None:
        """Request the bytes up to ``ahead`` after the ones needed; each is requested once."""
        begin, end = self._requested, min(needed + self._ahead, self._size)
        if begin < end and begin - needed <= self._ahead // 2:
            self._file.will_need(np.array([[begin, end]]))
            self._requested = end
            self._finish()


def open_reader(file: StoredFile) -> io.BufferedReader:
    """Open a file for reading. One that is not local is fetched as a whole, in sequence."""
    if isinstance(file, LocalFile):
        return file.path.open("rb")
    return io.BufferedReader(StoredReader(file, file.path.stat().st_size), 1 << 16)


def finish(reader: io.BufferedReader) -> None:
    """Wait until all bytes of a file that was read to its end are there."""
    if isinstance(reader.raw, StoredReader):
        reader.raw.seek(0, os.SEEK_END)
        reader.raw.finish()
