"""Files that can be memory-mapped: on a disk, or (``pipelines.remote``) fetched when needed."""

from __future__ import annotations

import contextlib
import mmap
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.system import page_cache
from pipelines.system.page_cache import Ranges

Bytes = NDArray[np.uint8]


class StoredFile(ABC):
    """A file that can be memory-mapped, although its bytes may have to be fetched first."""

    @property
    @abstractmethod
    def path(self) -> Path:
        """The local file."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What a person calls the file: its path, or its URL."""

    @property
    @abstractmethod
    def bytes(self) -> Bytes:
        """The whole file, memory-mapped read-only; a piece is there while it is ``held``."""

    @abstractmethod
    def read(self, begin: int, size: int) -> Bytes:
        """Return a piece of the file; it stays valid."""

    @abstractmethod
    def will_need(self, ranges: Ranges) -> None:
        """Request the ranges, and do not wait for them."""

    @abstractmethod
    def held(self, ranges: Ranges) -> AbstractContextManager[None]:
        """Return a context that begins when the ranges are there, and in which they stay."""

    @abstractmethod
    def forget(self, ranges: Ranges) -> None:
        """Advise the operating system to drop the ranges, so that the next read is cold."""


@dataclass(frozen=True)
class LocalFile(StoredFile):
    """A file on a disk, which needs no waiting."""

    place: Path

    @property
    def path(self) -> Path:
        """The file."""
        return self.place

    @property
    def title(self) -> str:
        """The path."""
        return str(self.path)

    @cached_property
    def bytes(self) -> Bytes:
        """The whole file, memory-mapped read-only."""
        return np.frombuffer(self._map, np.uint8)

    @cached_property
    def _map(self) -> mmap.mmap:
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __reduce__(self) -> tuple[type[LocalFile], tuple[Path]]:
        """Send a worker process the path; it makes a memory map of its own."""
        return LocalFile, (self.place,)

    def read(self, begin: int, size: int) -> Bytes:
        """Return a view of the memory map."""
        return self.bytes[begin : begin + size]

    def will_need(self, ranges: Ranges) -> None:
        """Advise the operating system to read the ranges ahead; it may ignore this."""
        page_cache.will_need(self.path, ranges)

    def held(self, ranges: Ranges) -> AbstractContextManager[None]:
        """Return a context without effect: the bytes are there."""
        return contextlib.nullcontext()

    def forget(self, ranges: Ranges) -> None:
        """Drop the ranges' pages from this mapping and from the page cache.

        The system keeps mapped pages, so this mapping drops them first; another mapping of the file
        still holds them.
        """
        if "_map" in vars(self):
            for begin, end in page_cache.whole_pages(ranges).tolist():
                self._map.madvise(mmap.MADV_DONTNEED, begin, end - begin)
        page_cache.forget(self.path, ranges)
