"""The rows of several sources as one source, one data set after the other."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipelines.sources.files import Files
from pipelines.sources.image_file import ImageRules
from pipelines.sources.source import Source
from pipelines.sources.stored import InFiles, Pieces
from pipelines.system.stored_file import StoredFile

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """The rows that come from one data set."""

    place: int
    """Its place among the data sets that were joined."""
    spec: str
    """What it is called in ``--data``."""
    source: Source
    rows: int
    classes: tuple[str, ...]
    """Its own classes."""
    number: NDArray[np.int64] = field(repr=False)
    """The joined label of each of its own labels, (n + 1,); the last one is that of -1: -1."""

    def own_labels(self, label: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return its own labels of rows from their joined labels."""
        own = np.full(self.number.max(initial=-1) + 2, -1, np.int64)
        own[self.number] = np.arange(len(self.number))
        own[-1] = -1
        return own[label]


@dataclass(frozen=True)
class Joined:
    """The rows of several sources; a row is known by its place in the parts laid end to end."""

    parts: tuple[Part, ...]
    """Those that have rows."""
    rules: ImageRules
    """What the files of all parts become."""
    places: Rows | None = field(default=None, repr=False)
    """The place of each row, (N,), a permutation; None: 0 to N - 1."""

    @cached_property
    def _ends(self) -> Rows:
        return np.cumsum([part.rows for part in self.parts], dtype=np.int64)

    def find(self, rows: Rows) -> tuple[Rows, Rows]:
        """Return the number of the part that holds each row, and the row's number in it."""
        places = rows if self.places is None else self.places[rows]
        number = np.searchsorted(self._ends, places, side="right")
        begins = np.concatenate([np.zeros(1, np.int64), self._ends])
        return number, places - begins[number]

    def part_of(self, row: int) -> tuple[Part, int]:
        """Return the part that holds a row, and the row's number in it."""
        number, own = self.find(np.array([row]))
        return self.parts[int(number[0])], int(own[0])

    def name(self, row: int) -> str:
        """Return the row's name in its part."""
        part, own = self.part_of(row)
        return part.source.name(own)

    def encoded(self, row: int) -> NDArray[np.uint8] | None:
        """Return the row's encoded bytes, or None if it is stored as pixels."""
        part, own = self.part_of(row)
        return part.source.encoded(own)

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """Return the row decoded by PIL, (h, w, channels)."""
        part, own = self.part_of(row)
        return part.source.pixels(own)

    def file_order(self) -> Rows:
        """Return the rows part by part, each in the order of its bytes."""
        ends = self._ends.tolist()
        orders = [
            part.source.file_order() + (end - part.rows)
            for part, end in zip(self.parts, ends, strict=True)
        ]
        places = np.concatenate([np.zeros(0, np.int64), *orders])
        row_at = None if self.places is None else inverse(self.places)
        return places if row_at is None else row_at[places]

    def take(self, rows: Rows) -> Joined:
        """Return these rows only; parts without rows are left out."""
        parts, origin = [], [np.zeros(0, np.int64)]
        for part, here, own in self._divided(rows):
            source = part.source.take(own)
            parts.append(dataclasses.replace(part, source=source, rows=len(own)))
            origin.append(here)
        order = np.concatenate(origin)
        places = inverse(order)
        in_order = bool((order == np.arange(len(order))).all())
        return joined(parts, self.rules, None if in_order else places)

    def will_need(self, rows: Rows) -> None:
        """Request the rows' bytes."""
        for part, _, own in self._divided(rows):
            part.source.will_need(own)

    @contextlib.contextmanager
    def held(self, rows: Rows) -> Iterator[None]:
        """Wait for the rows' bytes, and keep them until the context ends."""
        with contextlib.ExitStack() as stack:
            for part, _, own in self._divided(rows):
                stack.enter_context(part.source.held(own))
            yield

    def forget(self, rows: Rows) -> None:
        """Drop the rows' bytes from memory."""
        for part, _, own in self._divided(rows):
            part.source.forget(own)

    def _divided(self, rows: Rows) -> Iterator[tuple[Part, Rows, Rows]]:
        """Yield each part that holds some of the rows, their places in ``rows``, and in it."""
        number, own = self.find(rows)
        for one in np.unique(number).tolist():
            here = np.flatnonzero(number == one)
            yield self.parts[one], here, own[here]


@dataclass(frozen=True)
class JoinedFiles(Joined, InFiles):
    """The rows of several sources, all of which are pieces of files."""

    @cached_property
    def files(self) -> tuple[StoredFile, ...]:
        """The files of all parts."""
        return tuple(file for source in self._sources for file in source.files)

    @cached_property
    def _sources(self) -> tuple[InFiles, ...]:
        return tuple(part.source for part in self.parts if isinstance(part.source, InFiles))

    @cached_property
    def _first_file(self) -> tuple[int, ...]:
        counts = [len(source.files) for source in self._sources]
        return tuple(np.cumsum([0, *counts]).tolist())

    def pieces(self, rows: Rows) -> Pieces:
        """Return where the rows are."""
        number, own = self.find(rows)
        file, offset, size = (np.empty(len(rows), np.int64) for _ in range(3))
        encoded = np.empty(len(rows), np.bool_)
        for one in np.unique(number).tolist():
            here = number == one
            found = self._sources[one].pieces(own[here])
            file[here] = found.file + self._first_file[one]
            offset[here], size[here], encoded[here] = found.offset, found.size, found.encoded
        return Pieces(file, offset, size, encoded)


def inverse(permutation: Rows) -> Rows:
    """Return the permutation that undoes this one, (n,)."""
    undone = np.empty(len(permutation), np.int64)
    undone[permutation] = np.arange(len(permutation))
    return undone


def joined(parts: Sequence[Part], rules: ImageRules, places: Rows | None = None) -> Joined:
    """Return a source of all rows; its rows are pieces of files if those of all parts are."""
    kind = JoinedFiles if all(isinstance(part.source, InFiles) for part in parts) else Joined
    return kind(tuple(parts), rules, places)


def sources_of(source: Source) -> tuple[Source, ...]:
    """Return the sources that are joined, at any depth; one of another kind is the only one."""
    if not isinstance(source, Joined):
        return (source,)
    return tuple(inner for part in source.parts for inner in sources_of(part.source))


def innermost(source: Source, row: int) -> tuple[Source, int]:
    """Return the source that holds a row and joins no others, and the row's number in it."""
    while isinstance(source, Joined):
        part, row = source.part_of(row)
        source = part.source
    return source, row


def page_of(source: Source, row: int) -> int:
    """Return the page of its file that a row is, counted from 0."""
    source, row = innermost(source, row)
    return source.page(row) if isinstance(source, Files) else 0


def file_names(source: Source) -> list[str] | None:
    """Return the path of each row's file, relative to its folder; None if not all are files."""
    if not isinstance(source, Joined):
        return list(source.names) if isinstance(source, Files) else None
    names: list[str] = []
    for part in source.parts:
        found = file_names(part.source)
        if found is None:
            return None
        names += found
    return names if source.places is None else [names[place] for place in source.places.tolist()]
