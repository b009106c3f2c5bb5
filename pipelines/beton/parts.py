"""A table for the ``ffcv`` loader: what is no piece of a file is converted once, part by part."""

from __future__ import annotations

import dataclasses

import numpy as np

from pipelines.beton.convert import cached_beton
from pipelines.sources.folder import OnBad
from pipelines.sources.join import part_tables
from pipelines.sources.joined import Joined, joined
from pipelines.sources.stored import InFiles
from pipelines.sources.table import Table


def stored_table(table: Table, spec: str, *, split: str = "train", on_bad: OnBad = "stop") -> Table:
    """Return the same rows as pieces of files; folders and arrays as a ``.beton`` in the cache.

    Of several data sets, each has a ``.beton`` of its own, the one that it has alone.

    Raises:
        ValueError: as ``cached_beton``.
    """
    source = table.source
    if isinstance(source, InFiles):
        return table
    if not isinstance(source, Joined):
        return cached_beton(table, spec, split=split, on_bad=on_bad)
    parts, tables = [], []
    for part, own in zip(source.parts, part_tables(table), strict=True):
        made = stored_table(own, part.spec, split=split, on_bad=on_bad)
        if len(made) != len(own):
            raise ValueError(
                f"the cached copy of {part.spec} has {len(made):,} of its {len(own):,} rows: "
                "tools/doctor.py --cache --empty removes it, and the next run makes it again"
            )
        parts.append(dataclasses.replace(part, source=made.source))
        tables.append(made)
    height = np.concatenate([made.height for made in tables])
    width = np.concatenate([made.width for made in tables])
    places = np.arange(len(table)) if source.places is None else source.places
    stored = joined(parts, source.rules, source.places)
    return Table(table.label, height[places], width[places], stored, table.classes)
