"""Open what ``--data`` and ``--val-data`` name.

The kinds of data sets are in ``pipelines.sources.kinds``, the words in ``pipelines.data_spec``.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.sources.arrays import Arrays
from pipelines.sources.classes import keep_classes, read_classes
from pipelines.sources.folder import OnBad
from pipelines.sources.image_file import RULES, ImageRules
from pipelines.sources.kinds import Opening, kind_of
from pipelines.sources.published import Split
from pipelines.sources.table import Table


def open_data(
    spec: str,
    data_dir: Path,
    split: Split = "train",
    *,
    on_bad: OnBad = "stop",
    classes_file: Path | None = None,
    download: bool = True,
    rules: ImageRules = RULES,
) -> Table:
    """Open the data set that ``spec`` names.

    Args:
        spec: a name or place; ``pipelines.sources.kinds.grammar`` lists the forms.
        data_dir: folder of the published files of the named sets.
        split: ``folder:PATH`` means its training or validation split if it is divided
            (``pipelines.sources.splits``); a ``.beton`` has one split only.
        on_bad: what to do with files whose header cannot be read.
        classes_file: keep these classes only (a name a line), labelled in the file's order.
        download: fetch published files that are missing.
        rules: what the image files become, with the number of channels of the images.

    Raises:
        NotDownloaded: a published set is missing, and ``download`` is off.
        ValueError: there is no such data set, nothing usable in it, or its images have another
            number of channels.
    """
    keep = None if classes_file is None else tuple(read_classes(classes_file))
    return _open_one(spec, Opening(data_dir, split, on_bad, keep, download, rules))


def _open_one(spec: str, opening: Opening) -> Table:
    kind = kind_of(spec)
    kind.check(spec)
    table = with_channels(kind.open(spec, opening), opening.rules, spec)
    if opening.keep is None or table.classes == opening.keep:
        return table
    return keep_classes(table, opening.keep, spec)


def check_spec(spec: str) -> None:
    """Refuse a spec outside the grammar or a path that does not exist, without opening it.

    Raises:
        ValueError: it is refused; the text suggests the nearest name.
    """
    kind_of(spec).check(spec)


def default_val(spec: str) -> str | None:
    """Return the validation data that belongs to ``spec``, to be opened as split ``val``, or None.

    It is a named set's own test split; ``val/`` in the folder or next to ``train/``, or the test
    split where there is none (``pipelines.sources.splits`` has the names); ``val.beton`` next to
    ``train.beton`` (any name in which "train" can be replaced by "val").
    """
    return kind_of(spec).val(spec)


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
