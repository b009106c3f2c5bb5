"""Several tables as one: their rows follow each other, their classes are joined by name."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.sources.image_file import ImageRules
from pipelines.sources.joined import Joined, Part, inverse, joined
from pipelines.sources.table import Table
from pipelines.system.progress import print_once
from pipelines.system.units import counted

log = logging.getLogger(__name__)


def join_tables(
    specs: Sequence[str], tables: Sequence[Table], *, same_numbers: bool = False
) -> Table:
    """Return all rows, one table after the other.

    Classes are joined by name; the first table's keep their numbers. Rows without a label keep -1.

    Args:
        specs: what the tables are called in ``--data``.
        tables: the rows, of images with the same number of channels.
        same_numbers: classes without names have the same numbers in all tables.

    Raises:
        ValueError: one table has classes with names, another without, or in other numbers.
    """
    classes, numbers = _join_classes(specs, tables, same_numbers)
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


def part_tables(table: Table) -> list[Table]:
    """Return the rows of each part of a joined table as a table with its own labels."""
    source = table.source
    assert isinstance(source, Joined)
    row_at = np.arange(len(table)) if source.places is None else inverse(source.places)
    tables, begin = [], 0
    for part in source.parts:
        rows = row_at[begin : begin + part.rows]
        begin += part.rows
        label = part.own_labels(table.label[rows])
        sizes = table.height[rows], table.width[rows]
        tables.append(Table(label, *sizes, part.source, part.classes))
    return tables


def join_rules(rules: Sequence[ImageRules]) -> ImageRules:
    """Return the rules of the first, with the first measured range of each kind of samples."""
    ints = (each.int_range for each in rules if each.int_range is not None)
    floats = (each.float_range for each in rules if each.float_range is not None)
    return dataclasses.replace(rules[0], int_range=next(ints, None), float_range=next(floats, None))


def _join_classes(
    specs: Sequence[str], tables: Sequence[Table], same_numbers: bool
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
    differ = len({counts[place] for place in labelled}) > 1
    if len(named) > 1 or (differ and (named or not same_numbers)):
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
    for names in named:
        where = ", ".join(specs[place] for place in nameless)
        shown = ", ".join(f"{place} is {name}" for place, name in enumerate(names[:3]))
        more = ", ..." if len(names) > 3 else ""
        print_once(log, f"{where}: its classes have numbers only, taken as {shown}{more}")
    numbers = [np.array([*range(count), -1]) for count in counts]
    return named.pop() if named else (), numbers
