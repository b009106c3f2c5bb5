"""The headers of a folder's files, read once and cached, and the range of a set's deep samples."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.sources.colors import check_bands, without_flag
from pipelines.sources.depth import Range, set_range
from pipelines.sources.image_file import (
    Header,
    ImageRules,
    read_header,
    read_pages,
    reason,
    value_range,
)
from pipelines.system.atomic import replacing
from pipelines.system.cache import writing
from pipelines.system.progress import tracked
from pipelines.system.units import counted
from pipelines.system.workers import main_hidden, worker_pool

log = logging.getLogger(__name__)

VERSION = 2
"""Of the cached file; one of another version is measured again."""
CHUNK = 512
MANY_CHUNKS = 40
"""More files than this times 512 are measured by worker processes."""


@dataclass(frozen=True, slots=True)
class Headers:
    """Headers of the rows: one for each file, or for each page with ``pages="all"``."""

    place: NDArray[np.int64]
    """The row's place in the listing, (n,)."""
    page: NDArray[np.int32]
    """Its page, counted from 0."""
    height: NDArray[np.int32]
    """Height of the upright image in pixels; 0 for the files in ``bad``."""
    width: NDArray[np.int32]
    kind: NDArray[np.int16]
    """The row's place in ``kinds``; -1 for the files in ``bad``."""
    kinds: tuple[Header, ...]
    """The distinct headers, with height and width 0."""
    low: NDArray[np.float64]
    """Smallest sample of the row, measured if the file declares no range; else NaN."""
    high: NDArray[np.float64]
    measured: bool
    """Whether ``low`` and ``high`` are, for files that declare no range."""
    bad: dict[str, str]
    """Path -> reason of the files whose header, or undeclared samples, cannot be read."""

    def ranged(self, rules: ImageRules, rows: NDArray[np.int64]) -> ImageRules:
        """Return the rules with the ranges of these rows' samples that declare none.

        They are ``depth_range`` if it is set, else measured. In the result it is None, so that
        equal ranges make equal rules.
        """
        return dataclasses.replace(
            rules,
            depth_range=None,
            int_range=rules.int_range or self._range_of(rules, rows, False),
            float_range=rules.float_range or self._range_of(rules, rows, True),
        )

    def _range_of(self, rules: ImageRules, rows: NDArray[np.int64], is_float: bool) -> Range | None:
        kinds = [
            number
            for number, kind in enumerate(self.kinds)
            if not kind.declared and kind.is_float == is_float
        ]
        chosen = rows[np.isin(self.kind[rows], kinds)]
        if not len(chosen) or rules.depth_range is not None:
            return rules.depth_range if len(chosen) else None
        return set_range(float(self.low[chosen].min()), float(self.high[chosen].max()), is_float)


Row = tuple[Header, float, float]
"""A page's header, and the smallest and largest of its samples where they are measured."""


def read_headers(
    root: Path,
    names: Sequence[str],
    stamp: str,
    rules: ImageRules,
    cache_dir: Path,
    place: Path | None = None,
) -> Headers:
    """Return the headers of the files ``names`` below ``root``, from the cache if it has them.

    Args:
        root: the folder.
        names: the files' paths relative to it.
        stamp: changes if any file does.
        rules: with ``depth_range``, no samples are measured.
        cache_dir: the cache's folder.
        place: by which the cached file is named; None: the folder.
    """
    place = place or root
    stamp = f"{VERSION} {stamp} {rules.max_pixels} {rules.pages} {rules.is_color}"
    key = hashlib.sha256(os.fsencode(place)).hexdigest()[:16]
    file = cache_dir / "tables" / f"{place.name}-{key}.npz"
    known = _load(file, stamp)
    if known is None or not (known.measured or rules.depth_range is not None):
        known = measure(root, names, rules)
        try:
            with writing():
                _save(file, known, stamp)
        except ValueError as error:
            log.warning("%s; the headers are read again next time", error)
    return known


ARRAYS = ("place", "page", "height", "width", "kind", "low", "high")


def _save(file: Path, headers: Headers, stamp: str) -> None:
    words = {
        "kinds": [dataclasses.astuple(kind) for kind in headers.kinds],
        "measured": headers.measured,
        "bad": headers.bad,
    }
    arrays = {name: getattr(headers, name) for name in ARRAYS}
    with replacing(file) as temporary, temporary.open("wb") as out:
        text = np.frombuffer(json.dumps(words).encode(), np.uint8)
        np.savez_compressed(out, stamp=np.array(stamp), words=text, **arrays)


def _load(file: Path, stamp: str) -> Headers | None:
    try:
        with np.load(file, allow_pickle=False) as kept:
            if str(kept["stamp"]) == stamp:
                words = json.loads(kept["words"].tobytes())
                words["kinds"] = tuple(Header(*kind) for kind in words["kinds"])
                arrays = {name: kept[name] for name in ARRAYS}
                return Headers(**arrays, **words)
    except FileNotFoundError:
        pass
    except Exception as error:  # a damaged zip raises half a dozen kinds
        log.warning("%s cannot be read (%s): measured again", file, error)
    return None


def measure(root: Path, names: Sequence[str], rules: ImageRules) -> Headers:
    """Read every header: in this process, or in worker processes if there are many files."""
    chunks = [names[i : i + CHUNK] for i in range(0, len(names), CHUNK)]
    title = f"reading headers below {root}"
    found = list(tracked(_measured(root, chunks, rules), len(names), title))
    return tabulate([str(root / name) for name in names], found, rules)


def tabulate(names: Sequence[str], found: Sequence[list[Row] | str], rules: ImageRules) -> Headers:
    """Return the headers of files from the rows of each, or the reason why it cannot be read."""
    bad = {name: rows for name, rows in zip(names, found, strict=True) if isinstance(rows, str)}
    number: dict[Header, int] = {}
    table: list[tuple[int, int, int, int, int]] = []
    limits: list[tuple[float, float]] = []
    for file, rows in enumerate(found):
        if isinstance(rows, str):
            table.append((file, 0, 0, 0, -1))
            limits.append((math.nan, math.nan))
            continue
        for page, (header, low, high) in enumerate(rows):
            kind = number.setdefault(dataclasses.replace(header, height=0, width=0), len(number))
            table.append((file, page, header.height, header.width, kind))
            limits.append((low, high))
    columns = np.array(table, np.int64).reshape(-1, 5).T
    lowest, highest = np.array(limits, np.float64).reshape(-1, 2).T
    return Headers(
        columns[0].copy(),
        columns[1].astype(np.int32),
        columns[2].astype(np.int32),
        columns[3].astype(np.int32),
        columns[4].astype(np.int16),
        tuple(number),
        lowest.copy(),
        highest.copy(),
        rules.depth_range is None,
        bad,
    )


def _measured(
    root: Path, chunks: Sequence[Sequence[str]], rules: ImageRules
) -> Iterator[list[Row] | str]:
    roots, same = [root] * len(chunks), [rules] * len(chunks)
    if len(chunks) <= MANY_CHUNKS:
        yield from chain.from_iterable(map(_measure_chunk, roots, chunks, same))
        return
    with worker_pool() as pool:
        with main_hidden():
            found = pool.map(_measure_chunk, roots, chunks, same)
        yield from chain.from_iterable(found)


def _measure_chunk(root: Path, names: Sequence[str], rules: ImageRules) -> list[list[Row] | str]:
    return [_measure_file(root / name, rules) for name in names]


def _measure_file(path: Path, rules: ImageRules) -> list[Row] | str:
    try:
        with path.open("rb") as file:
            return read_rows(file, rules)
    except Exception as error:  # Pillow's plugins raise anything from SyntaxError to struct.error
        return reason(error, path.stat().st_size if path.exists() else 1)


def read_rows(file: io.BufferedReader, rules: ImageRules) -> list[Row]:
    """Read the headers of a file's rows, and the limits of the samples without a declared range.

    Raises:
        Exception: of any kind; the file cannot be read.
    """
    headers = read_pages(file, rules) if rules.pages == "all" else [read_header(file, rules)]
    if rules.depth_range is not None or all(header.declared for header in headers):
        return [(header, math.nan, math.nan) for header in headers]
    file.seek(0)
    data = file.read()
    return [(header, *_limits(data, header, rules, page)) for page, header in enumerate(headers)]


def _limits(data: bytes, header: Header, rules: ImageRules, page: int) -> tuple[float, float]:
    return (math.nan, math.nan) if header.declared else value_range(data, rules, page)


def other_bands(
    root: Path, names: Sequence[str], headers: Headers, rules: ImageRules
) -> dict[str, str]:
    """Return path -> reason of the images that ``wrong_bands`` returns."""
    wrong = wrong_bands(headers, rules)
    return {str(root / names[headers.place[row]]): why for row, why in wrong.items()}


def wrong_bands(headers: Headers, rules: ImageRules) -> dict[int, str]:
    """Return row -> reason of the images whose bands are not what ``rules.channels`` asks for.

    The reasons name ``--in-chans`` only if all images have the same other number of bands.
    """
    wrong: dict[int, str] = {}
    for number, kind in enumerate(headers.kinds):
        try:
            check_bands(kind.channels, kind.has_alpha, rules.channels)
        except ValueError as error:
            wrong[number] = str(error)
    if len(wrong) < len(headers.kinds) or len(set(wrong.values())) > 1:
        wrong = {number: without_flag(why) for number, why in wrong.items()}
    rows = np.flatnonzero(np.isin(headers.kind, list(wrong)))
    return {row: wrong[int(headers.kind[row])] for row in rows.tolist()}


def describe(headers: Headers, rules: ImageRules, where: str) -> None:
    """Write a line for what is scaled by the set's own range, and for files of several pages."""
    for kinds, limits in (("integer", rules.int_range), ("floating-point", rules.float_range)):
        chosen = [
            number
            for number, kind in enumerate(headers.kinds)
            if not kind.declared and kind.is_float == (kinds == "floating-point")
        ]
        count = int(np.isin(headers.kind, chosen).sum())
        if limits is not None and count and rules.depth_range is None:
            log.info(
                "%s: %s of %s samples %s no range: %.10g to %.10g become 0 to 255 "
                "(--depth-range sets another)", where, counted(count, "image"), kinds,
                "declares" if count == 1 else "declare", *limits,
            )  # fmt: skip
    many = [number for number, kind in enumerate(headers.kinds) if kind.pages > 1]
    rows = np.isin(headers.kind, many)
    if rows.any():
        files = len(np.unique(headers.place[rows]))
        pages = sum(
            headers.kinds[kind].pages for kind in headers.kind[rows & (headers.page == 0)].tolist()
        )
        log.info(
            "%s: %s %s several pages, %s in all: %s", where, counted(files, "file"),
            "has" if files == 1 else "have", f"{pages:,}",
            "each is a row" if rules.pages == "all"
            else "the first of each is used (--pages all makes each page a row)",
        )  # fmt: skip
