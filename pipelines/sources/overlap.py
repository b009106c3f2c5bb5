"""Images that two tables share: the same file, or the same row of the same file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.sources.beton import Beton
from pipelines.sources.files import Files
from pipelines.sources.joined import Joined, sources_of
from pipelines.sources.shards import Shards
from pipelines.sources.source import Source
from pipelines.sources.table import Table


def rows_in(table: Table, other: Table) -> NDArray[np.int64]:
    """Return the row in ``other`` of each image of ``table``, -1 where it is not there, (rows,).

    Images are compared by their names, not by their pixels: a copy of a file is another image.
    """
    found = np.full(len(table), -1, np.int64)
    if _are_apart(table.source, other.source):
        return found
    folders: dict[str, str] = {}  # a folder has many images: each is resolved once
    places = {_identity(table.source.name(row), folders): row for row in range(len(table))}
    for row in range(len(other)):
        here = places.get(_identity(other.source.name(row), folders))
        if here is not None:
            found[here] = row
    return found


def _are_apart(a: Source, b: Source) -> bool:
    """Whether no image can be in both, seen without its name: the usual case."""
    if isinstance(a, Joined) or isinstance(b, Joined):
        return all(_are_apart(one, other) for one in sources_of(a) for other in sources_of(b))
    if isinstance(a, Beton) and isinstance(b, Beton):
        named = a.names or b.names
        return not named and os.path.realpath(a.path) != os.path.realpath(b.path)
    if isinstance(a, Shards) and isinstance(b, Shards):
        ours, theirs = ({os.path.realpath(tar.path) for tar in each.tars} for each in (a, b))
        return ours.isdisjoint(theirs)
    if isinstance(a, Files) and isinstance(b, Files) and not (a.listed or b.listed):
        roots = [Path(os.path.realpath(source.root)) for source in (a, b)]
        return not (roots[0].is_relative_to(roots[1]) or roots[1].is_relative_to(roots[0]))
    return False


def _identity(name: str, folders: dict[str, str]) -> str:
    """Return a name that does not depend on the way its folder was written."""
    folder, tail = os.path.split(name)
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    return os.path.join(folders[folder], tail)
