"""Several ``.beton`` files as one, named by a pattern: ``train-{0..3}.beton``, ``train-*.beton``.

The parts that ``tools/write_ffcv.py --shard`` writes are read in the order of their numbers, and
all of them are needed; other files in the order of the pattern.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipelines.beton.remote import manifest_of
from pipelines.remote.store import expand
from pipelines.remote.url import is_glob, is_remote
from pipelines.sources.join import join_tables
from pipelines.sources.patterns import expand_files
from pipelines.sources.table import Table
from pipelines.system.units import counted


def is_pattern(spec: str) -> bool:
    """Whether the name of a ``.beton`` is a pattern, and not that of a file that is there."""
    if is_remote(spec):
        return "{" in spec or is_glob(spec)
    return bool(re.search(r"[{*?\[]", spec)) and not Path(spec).expanduser().is_file()


def files_of(pattern: str) -> list[str]:
    """Return the paths or URLs of a pattern, in its order.

    Raises:
        ValueError: one is missing, or a glob matches none.
    """
    if is_remote(pattern):
        return expand(pattern)
    return [str(path) for path in expand_files(pattern)]


def open_pattern(pattern: str, open_one: Callable[[str], Table]) -> Table:
    """Open the files of a pattern as one data set; ``open_one`` opens a path or URL.

    Raises:
        ValueError: a part is missing or there twice, or they are parts of different data sets.
    """
    places = in_order(pattern, files_of(pattern))
    return join_tables(places, [open_one(place) for place in places], same_numbers=True)


def in_order(pattern: str, places: Sequence[str]) -> list[str]:
    """Return the files in the order of their numbers if they are numbered parts, else as given.

    Raises:
        ValueError: a part is missing or there twice, or they are parts of different data sets.
    """
    if len(set(places)) < len(places):
        raise ValueError(f"{pattern} names a file twice")
    found = {place: manifest_of(place).get("shard") for place in places}
    parts = {place: part for place, part in found.items() if isinstance(part, dict)}
    if not parts:
        return list(places)
    if whole := [place for place in places if place not in parts]:
        first = next(iter(parts))
        raise ValueError(f"{pattern}: {first} is {_part(parts[first])}, and {whole[0]} is no part")
    return _numbered(pattern, parts)


def _numbered(pattern: str, parts: dict[str, dict[str, Any]]) -> list[str]:
    """Return the files of numbered parts in their order; refuse what is no complete set."""
    first, shard = next(iter(parts.items()))
    by_number: dict[int, str] = {}
    for place, part in parts.items():
        if (part["of"], part["listing"]) != (shard["of"], shard["listing"]):
            raise ValueError(
                f"{pattern}: {first} is {_part(shard)}, and {place} {_part(part)} of another "
                "writing: its rows, their order or their settings differ. Write all parts with the "
                "same flags but --shard"
            )
        if (same := by_number.setdefault(part["number"], place)) != place:
            raise ValueError(f"{pattern}: {same} and {place} are both {_part(part)}")
    if missing := sorted(set(range(shard["of"])) - set(by_number)):
        named = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        raise ValueError(
            f"{pattern}: of {counted(shard['of'], 'part')}, {len(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not there: {named}. Name the files one by one "
            "(--data FILE --data FILE) to train on some of them"
        )
    return [by_number[number] for number in sorted(by_number)]


def _part(part: dict[str, Any]) -> str:
    return f"part {part['number']} of {part['of']}"
