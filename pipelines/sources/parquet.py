"""Images in parquet files as a ``Table``, from which ``tools/write_ffcv.py`` makes a ``.beton``."""

from __future__ import annotations

import io
import logging
import math
import re
import shlex
from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.sources.classes import keep_classes
from pipelines.sources.headers import Headers, Row, describe, read_rows
from pipelines.sources.hub_files import list_splits
from pipelines.sources.image_file import RULES, Header, ImageRules, reason
from pipelines.sources.listing import LeftOut
from pipelines.sources.parquet_file import PATH_ALONE, Layout, read_cells, read_labels, read_layout
from pipelines.sources.parquet_rows import Parquet
from pipelines.sources.parquet_schema import Choice, Columns
from pipelines.sources.patterns import expand_files
from pipelines.sources.summary import summarize
from pipelines.sources.table import Table
from pipelines.system.progress import print_once, tracked
from pipelines.system.units import counted

log = logging.getLogger(__name__)

FILES_THEMSELVES = (
    ". Train on the files themselves (folder:PATH), or write the parquet files with the bytes in "
    "them"
)
"""The way on from a column of paths."""
EXAMPLES = 64
EXAMPLE_BYTES = 1 << 25
"""Images, and their bytes at most, that are kept to estimate the size of the ``.beton``."""


def find_parquet(pattern: str) -> tuple[Path, ...]:
    """Return the files of ``parquet:PATTERN``, with globs and braces; of a folder, all below it.

    Raises:
        ValueError: there is no such file, or the folder has several splits.
    """
    folder = Path(pattern).expanduser()
    if folder.is_dir():
        return _below(folder)
    return tuple(expand_files(pattern, "parquet:"))


def _below(folder: Path) -> tuple[Path, ...]:
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet")]
    if not names:
        raise ValueError(f"parquet:{folder}: no file below it ends in .parquet")
    places = list_splits(names, {})
    splits = [files for config in places.values() for files in config.values()]
    if len(splits) > 1:
        first = next(iter(places.values()))
        named = sorted({split for config in places.values() for split in config})
        raise ValueError(
            f"parquet:{folder} has {len(splits)} parts, by their names ({', '.join(named)}): name "
            f"the files of one, as {shlex.quote(f'parquet:{folder}/{_pattern(first)}')}"
        )
    return tuple(folder / name for name in splits[0])


def _pattern(splits: dict[str, list[str]]) -> str:
    """Return a pattern of the files of a first split, in which numbers are left open."""
    return re.sub(r"\d+", "*", next(iter(splits.values()))[0])


def open_parquet(
    paths: Sequence[Path], spec: str, choice: Choice, rules: ImageRules = RULES
) -> Table:
    """Read labels and headers of parquet files; unreadable images have height and width 0.

    The rows are in the order of the files, their row groups, and the rows of these. All images
    are read once, in sequence, for their sizes and for the range of deep samples.

    Args:
        paths: the files.
        spec: what messages call them.
        choice: columns and classes.
        rules: what the images become; of several pages, the first is read.

    Raises:
        ValueError: pyarrow is not installed, a file is damaged, columns are not there or not
            clear, a class is unknown, or there is no image, as in a column of paths.
    """
    if rules.pages == "all":
        raise ValueError("--pages all reads image files; of a row of parquet, only the first")
    layout, columns = read_layout(paths, choice)
    label, classes = read_labels(layout, columns)
    unknown = np.zeros(len(label), np.int32)
    source = Parquet(layout, columns, np.arange(len(label)))
    table = Table(label, unknown, unknown, source, classes)
    if choice.classes is not None:
        table = keep_classes(table, choice.classes, spec)
    assert isinstance(table.source, Parquet)
    rows = table.source.number
    if not len(rows):
        raise ValueError(f"{spec}: {counted(len(paths), 'file')} without a row")
    headers, examples = _measure(layout, columns, rows, rules)
    is_good = headers.height > 0
    rules = headers.ranged(rules, np.flatnonzero(is_good))
    where = f"images in {columns.image}, " + (
        "no labels" if columns.label is None else f"labels in {columns.label}"
    )
    summary = summarize(headers, rules, LeftOut(), is_good)
    print_once(log, f"{spec}: {summary.text()}; {where}", logging.INFO)
    describe(headers, rules, spec)
    if not is_good.any():
        name, why = next(iter(headers.bad.items()))
        way_on = FILES_THEMSELVES if why.startswith(PATH_ALONE) else ""
        raise ValueError(
            f"{spec}: not one of {len(rows)} images can be read; {name}: {why}{way_on}"
        )
    source = Parquet(layout, columns, rows, rules, examples)
    return Table(table.label, headers.height, headers.width, source, table.classes)


def _measure(
    layout: Layout, columns: Columns, rows: NDArray[np.int64], rules: ImageRules
) -> tuple[Headers, dict[int, bytes]]:
    """Read all headers; return them, and the bytes of some rows, spread evenly.

    The numbers are collected in arrays: millions of Python objects would take gigabytes.
    """
    spread = np.linspace(0, len(rows) - 1, EXAMPLES).astype(np.int64)
    wanted, examples, room = set(rows[spread].tolist()), {}, EXAMPLE_BYTES
    height, width, kind, limits = array("i"), array("i"), array("h"), array("d")
    kinds: dict[Header, int] = {}
    bad: dict[str, str] = {}
    cells = tracked(read_cells(layout, columns, rows), len(rows), "reading headers")
    for number, data in cells:
        found = _header(data, rules)
        if isinstance(found, str):
            bad[layout.name(number)] = found
            found = (NO_HEADER, math.nan, math.nan)
            kind.append(-1)
        else:
            plain = replace(found[0], height=0, width=0)
            kind.append(kinds.setdefault(plain, len(kinds)))
        height.append(found[0].height)
        width.append(found[0].width)
        limits.extend(found[1:])
        if number in wanted and isinstance(data, bytes) and len(data) <= room:
            examples[number] = data
            room -= len(data)
    low, high = np.frombuffer(limits, np.float64).reshape(-1, 2).T
    headers = Headers(
        np.arange(len(rows)), np.zeros(len(rows), np.int32), np.array(height, np.int32),
        np.array(width, np.int32), np.array(kind, np.int16), tuple(kinds), low.copy(), high.copy(),
        rules.depth_range is None, bad,
    )  # fmt: skip
    return headers, examples


NO_HEADER = Header(0, 0, "", "", 0, False, 0, False, 0, True)


def _header(data: bytes | str, rules: ImageRules) -> Row | str:
    """Return the header of an image, or the reason why it cannot be read."""
    if isinstance(data, str):
        return data
    try:
        (found,) = read_rows(io.BufferedReader(io.BytesIO(data)), rules)
        return found
    except Exception as error:  # Pillow's plugins raise anything from SyntaxError to struct.error
        return reason(error, len(data))
