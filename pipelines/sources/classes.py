"""Names of classes: chosen by a file, and matched between data sets."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from pipelines.sources.table import Table


def read_classes(file: Path) -> list[str]:
    """Return the class names in a text file: one a line, ``#`` begins a comment."""
    try:
        lines = file.expanduser().read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--classes {file} cannot be read: {error}") from error
    names = [name for line in lines if (name := line.split("#", 1)[0].strip())]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"--classes {file} names {'no class' if not names else 'a class twice'}")
    return names


def keep_classes(table: Table, names: Sequence[str], where: str) -> Table:
    """Return the rows of these classes only, labelled by their place in ``names``."""
    check_classes(names, table.classes, where)
    number = np.full(len(table.classes) + 1, -1, np.int64)  # the last one: label -1
    number[[table.classes.index(name) for name in names]] = np.arange(len(names))
    rows = np.flatnonzero(number[table.label] >= 0)
    kept = table.take(rows)
    label = number[kept.label]
    return Table(label, kept.height, kept.width, kept.source, tuple(names))


def match_classes(val: Table, train: Table) -> Table:
    """Return ``val`` with ``train``'s labels, matched by class name; unchanged without names.

    Raises:
        ValueError: ``val`` has a class that ``train`` lacks, or one of the two has numbers without
            names, and the other's names are numbers that are not in their order.
    """
    if bool(train.classes) != bool(val.classes):
        _refuse_unsorted_numbers(train.classes or val.classes)
    if val.classes == train.classes or not val.classes or not train.classes:
        return val
    check_classes(val.classes, train.classes, "the training data")
    number = np.array([*(train.classes.index(name) for name in val.classes), -1], np.int64)
    return Table(number[val.label], val.height, val.width, val.source, train.classes)


def _refuse_unsorted_numbers(names: Sequence[str]) -> None:
    """Refuse names that are numbers in another order than their own, as 0, 1, 10, 2.

    Labels without names may be these numbers, or the places of the names in the order of texts.
    """
    if all(map(str.isdecimal, names)) and [*map(int, names)] != list(range(len(names))):
        raise ValueError(
            f"its classes cannot be matched with those of the training data: one has numbers "
            f"without names, and the other the names {', '.join(names[:4])}, ..., which are not in "
            "the order of numbers. Names of equal length, as 00, 01, 02, are"
        )


def classes_there(wanted: Sequence[str], known: Collection[str], where: str) -> tuple[str, ...]:
    """Return the classes that are known, in the order of ``wanted``.

    Raises:
        ValueError: none is.
    """
    found = tuple(name for name in wanted if name in known)
    if not found:
        raise ValueError(f"{where} has none of the classes of --classes: leave it out of --data")
    return found


def check_classes(wanted: Sequence[str], known: Sequence[str], where: str) -> None:
    """Raise ``ValueError`` for a class that ``where`` does not have; suggest the nearest name."""
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            others = f"it has {len(known)} others" if known else "its classes have no names"
            hint = f"did you mean {near[0]!r}?" if near else others
            raise ValueError(f"{where} has no images of a class {name!r}; {hint}")
