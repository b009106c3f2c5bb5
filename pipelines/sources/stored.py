"""Sources whose rows are pieces of files."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.system import page_cache
from pipelines.system.page_cache import Ranges
from pipelines.system.stored_file import Bytes, StoredFile

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pieces:
    """Where the bytes of n rows are."""

    file: NDArray[np.int64]
    """Place in the source's ``files``, (n,)."""
    offset: NDArray[np.int64]
    """First byte in that file, (n,)."""
    size: NDArray[np.int64]
    """Number of bytes, (n,)."""
    encoded: NDArray[np.bool_]
    """Whether they are an image file, which PIL can decode, or raw pixels, (n,)."""


class InFiles(ABC):
    """A source whose rows are pieces of files; decoders may read them from the memory maps."""

    @property
    @abstractmethod
    def files(self) -> tuple[StoredFile, ...]:
        """The files."""

    @abstractmethod
    def pieces(self, rows: Rows) -> Pieces:
        """Return where the rows are."""

    def stored(self, row: int) -> Bytes:
        """Return the bytes of a row as they are stored, (bytes,)."""
        piece = self.pieces(np.array([row]))
        return self.files[int(piece.file[0])].read(int(piece.offset[0]), int(piece.size[0]))

    def addresses(self, pieces: Pieces) -> NDArray[np.uint64]:
        """Return the address in memory of each piece, (n,); they are mapped, not read."""
        address = pieces.offset.astype(np.uint64)
        for number in np.unique(pieces.file):
            base = np.uint64(self.files[number].bytes.ctypes.data)
            address[pieces.file == number] += base
        return address

    def will_need(self, rows: Rows) -> None:
        """Request the rows' bytes, adjacent ones together."""
        for file, ranges in self._ranges(rows):
            file.will_need(ranges)

    @contextlib.contextmanager
    def held(self, rows: Rows) -> Iterator[None]:
        """Wait for the rows' bytes, and keep them until the context ends."""
        with contextlib.ExitStack() as stack:
            for file, ranges in self._ranges(rows):
                stack.enter_context(file.held(ranges))
            yield

    def forget(self, rows: Rows) -> None:
        """Drop the rows' bytes from memory."""
        for file, ranges in self._ranges(rows):
            file.forget(ranges)

    def _ranges(self, rows: Rows) -> Iterator[tuple[StoredFile, Ranges]]:
        """Yield each file that holds one of the rows, and its ranges, adjacent ones joined."""
        pieces = self.pieces(rows)
        for number in np.unique(pieces.file):
            here = pieces.file == number
            yield self.files[number], page_cache.joined(pieces.offset[here], pieces.size[here])
