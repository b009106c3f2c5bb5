"""Several data sets as one: their rows one data set after the other, their classes by name."""

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
from pipelines.sources.table import Table
from pipelines.system.stored_file import StoredFile
from pipelines.system.units import counted

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
    """Return the sources that are joined; a source of another kind is the only one."""
    return tuple(part.source for part in source.parts) if isinstance(source, Joined) else (source,)


def page_of(source: Source, row: int) -> int:
    """Return the page of its file that a row is, counted from 0."""
    if isinstance(source, Joined):
        part, row = source.part_of(row)
        source = part.source
    return source.page(row) if isinstance(source, Files) else 0


def join_tables(specs: Sequence[str], tables: Sequence[Table]) -> Table:
    """Return all rows, one table after the other.

    Classes are joined by name; the first table's keep their numbers. Rows without a label keep -1.

    Args:
        specs: what the tables are called in ``--data``.
        tables: the rows, of images with the same number of channels.

    Raises:
        ValueError: one table has classes with names, another without, or in other numbers.
    """
    classes, numbers = _join_classes(specs, tables)
    parts = [
        Part(place, spec, table.source, len(table), table.classes, number)
        for place, (spec, table, number) in enumerate(zip(specs, tables, numbers, strict=True))
    ]
    labels = [number[table.label] for table, number in zip(tables, numbers, strict=True)]
    height = np.concatenate([table.height for table in tables])
    width = np.concatenate([table.width for table in tables])
    rules = join_rules([table.source.rules for table in tables])
    parts = [part for part in parts if part.rows]
    return Table(np.concatenate(labels), height, width, joined(parts, rules), classes)


def join_rules(rules: Sequence[ImageRules]) -> ImageRules:
    """Return the rules of the first, with the first measured range of each kind of samples."""
    ints = (each.int_range for each in rules if each.int_range is not None)
    floats = (each.float_range for each in rules if each.float_range is not None)
    return dataclasses.replace(rules[0], int_range=next(ints, None), float_range=next(floats, None))


def _join_classes(
    specs: Sequence[str], tables: Sequence[Table]
) -> tuple[tuple[str, ...], list[NDArray[np.int64]]]:
    """Return the classes of all tables, and the joined label of each table's own labels."""
    labelled = [place for place, table in enumerate(tables) if (table.label >= 0).any()]
    nameless = [place for place in labelled if not tables[place].classes]
    counts = [len(table.classes) or int(table.label.max(initial=-1)) + 1 for table in tables]
    if not nameless:
        classes = tuple(dict.fromkeys(name for table in tables for name in table.classes))
        place_of = {name: place for place, name in enumerate(classes)}
        return classes, [
            np.array([*(place_of[name] for name in table.classes), -1]) for table in tables
        ]
    named = {tables[place].classes for place in labelled if tables[place].classes}
    if len(named) > 1 or len({counts[place] for place in labelled}) > 1:
        found = (
            f"{specs[place]} has {counted(counts[place], 'class')}"
            + (" without names" if place in nameless else " with names")
            for place in labelled
        )
        raise ValueError(
            f"classes are joined by name, or by number where all data sets have the same: "
            f"{', '.join(found)}. Folders have names, and so has a .beton that "
            "tools/write_ffcv.py made of one"
        )
    numbers = [np.array([*range(count), -1]) for count in counts]
    return named.pop() if named else (), numbers
