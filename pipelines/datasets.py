"""Open what ``--data`` and ``--val-data`` name.

The kinds of data sets are in ``pipelines.sources.kinds``, the words in ``pipelines.data_spec``.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.data_spec import join_sum, split_sum, suggesting
from pipelines.remote.file import RemoteOptions
from pipelines.sources.arrays import Arrays
from pipelines.sources.classes import classes_there, keep_classes, read_classes
from pipelines.sources.folder import OnBad
from pipelines.sources.image_file import RULES, ImageRules
from pipelines.sources.join import join_rules, join_tables
from pipelines.sources.kinds import Kind, Opening, kind_of
from pipelines.sources.published import Split
from pipelines.sources.shard_members import USUAL, MemberKeys
from pipelines.sources.table import Table
from pipelines.system.progress import print_once

log = logging.getLogger(__name__)


def open_data(  # noqa: PLR0913 - a builder, with an argument for each flag
    spec: str,
    data_dir: Path,
    split: Split = "train",
    *,
    on_bad: OnBad = "stop",
    classes_file: Path | None = None,
    download: bool = True,
    rules: ImageRules = RULES,
    keys: MemberKeys = USUAL,
    remote: RemoteOptions | None = None,
) -> Table:
    """Open the data set that ``spec`` names.

    Args:
        spec: a name or place (``pipelines.sources.kinds.grammar`` lists the forms), or several,
            joined by `` + ``: their rows follow each other, their classes are joined by name.
        data_dir: folder of the published files of the named sets.
        split: ``folder:PATH`` means its training or validation split if it is divided
            (``pipelines.sources.splits``); a ``.beton`` has one split only.
        on_bad: what to do with files whose header cannot be read.
        classes_file: keep these classes only (a name a line), labelled in the file's order.
        download: fetch published files that are missing.
        rules: what the image files become, with the number of channels of the images.
        keys: which members of tar shards are images and classes.
        remote: how remote files are fetched and kept (default: in the cache).

    Raises:
        NotDownloaded: a published set is missing, and ``download`` is off.
        ValueError: there is no such data set, nothing usable in it, or its images have another
            number of channels.
    """
    keep = None if classes_file is None else tuple(read_classes(classes_file))
    opening = Opening(data_dir, split, on_bad, keep, download, rules, keys, remote)
    specs = split_sum(spec)
    return _open_one(spec, opening) if len(specs) == 1 else _open_sum(specs, opening)


def _checked(spec: str) -> Kind:
    """Return the kind of one data set, whose place is there as far as that is known."""
    with suggesting(spec):
        kind = kind_of(spec)
        kind.check(spec)
    return kind


def _open_one(spec: str, opening: Opening) -> Table:
    kind = _checked(spec)
    table = with_channels(kind.open(spec, opening), opening.rules, spec)
    keep = opening.keep
    if keep is None or table.classes == keep:
        return table
    if opening.is_part:
        keep = classes_there(keep, table.classes, spec)
    return keep_classes(table, keep, spec)


def _open_sum(specs: Sequence[str], opening: Opening) -> Table:
    """Open several data sets as one. Measured ranges are those of the first that has any."""
    _refuse_repeated(specs)
    rules, tables = opening.rules, list[Table]()
    for spec in specs:
        try:
            part = dataclasses.replace(opening, rules=rules, is_part=True)
            tables.append(_open_one(spec, part))
        except ValueError as error:
            raise ValueError(f"{spec}: {error}") from error
        known = join_rules([table.source.rules for table in tables])
        rules = opening.rules.like(known)
    table = join_tables(specs, tables)
    if opening.keep is None or table.classes == opening.keep:
        return table
    return keep_classes(table, opening.keep, join_sum(specs))


def _refuse_repeated(specs: Sequence[str]) -> None:
    for place, spec in enumerate(specs):
        if spec in specs[:place]:
            raise ValueError(
                f"{spec} is named twice: each image would count as two; --data-weights shows "
                "images of one data set more often than those of another"
            )


def check_spec(spec: str) -> None:
    """Refuse a spec outside the grammar or a path that does not exist, without opening it.

    Raises:
        ValueError: it is refused; the text suggests the nearest name.
    """
    specs = split_sum(spec)
    _refuse_repeated(specs)
    for one in specs:
        try:
            _checked(one)
        except ValueError as error:
            raise error if len(specs) == 1 else ValueError(f"{one}: {error}") from error


def default_val(spec: str) -> str | None:
    """Return the validation data that belongs to ``spec``, to be opened as split ``val``, or None.

    It is a named set's own test split; ``val/`` in the folder or next to ``train/``, or the test
    split where there is none (``pipelines.sources.splits`` has the names); ``val.beton`` next to
    ``train.beton`` (any name in which "train" can be replaced by "val"). That of several data sets
    is the sum of theirs.
    """
    specs = split_sum(spec)
    found = {one: kind_of(one).val(one) for one in specs}
    without = [one for one, val in found.items() if val is None]
    named = join_sum(dict.fromkeys(val for val in found.values() if val is not None))
    if named and without:
        have = "has" if len(without) == 1 else "have"
        print_once(log, f"{', '.join(without)} {have} no validation images: scored on {named}")
    return named or None


def with_channels(table: Table, rules: ImageRules, spec: str) -> Table:
    """Return the table if its images have the channels asked for; RGB arrays become gray.

    Raises:
        ValueError: they have another number of channels; the text has the flag.
    """
    if table.channels == rules.channels:
        return table
    if rules.channels == 1 and isinstance(table.source, Arrays):
        images = luma(table.source.images)[..., None]
        return dataclasses.replace(table, source=Arrays(table.source.title, images))
    raise ValueError(
        f"{spec} holds images of {table.channels} channels, not {rules.channels}: "
        f"--in-chans {table.channels}"
    )


def luma(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return Pillow's gray of RGB images, (..., 3) to (...)."""
    gray = np.zeros(images.shape[:-1], np.uint32)
    for channel, weight in enumerate((19595, 38470, 7471)):
        gray += weight * images[..., channel].astype(np.uint32)
    return ((gray + 0x8000) >> 16).astype(np.uint8)
