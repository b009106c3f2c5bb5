"""Checks of a data set for ``doctor --data``: kinds, sizes, damage, duplicates, suggested flags."""

from __future__ import annotations

import hashlib
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.beton.convert import CACHE_SETTINGS, bad_rows
from pipelines.beton.room import estimate
from pipelines.data_spec import is_spec, split_sum, suggesting
from pipelines.datasets import check_spec, default_val, open_data
from pipelines.sources.beton import Beton
from pipelines.sources.depth import Range
from pipelines.sources.file_list import inspect_list, scan_list
from pipelines.sources.folder import LISTED, Found, inspect, scan
from pipelines.sources.join import join_tables
from pipelines.sources.joined import sources_of
from pipelines.sources.pixel_limit import enough_for
from pipelines.sources.shards import Shards, open_shards
from pipelines.sources.splits import find_splits, warnings_of
from pipelines.sources.table import Table
from pipelines.system.cache import cache_root
from pipelines.system.progress import tracked
from pipelines.system.units import counted, size_text

LARGE = 40_000_000
"""Pixels of an image that takes long to decode: 40 megapixels."""
SMALL_SET = 10_000


@dataclass(slots=True)
class Report:
    """What was found in a data set."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Images that cannot be read, and folders that look wrong; with any, the exit status is 1."""
    reasons: list[str] = field(default_factory=list)
    """Why each image that cannot be used is none, also of those that ``problems`` only counts."""
    advice: list[str] = field(default_factory=list)
    """Flags for train.py, and why."""

    def text(self) -> str:
        """Return the report."""
        lines = [*self.lines]
        lines += [f"problem: {problem}" for problem in self.problems]
        lines += [f"suggestion: {advice}" for advice in self.advice]
        return "\n".join([*lines, "no problem was found" if not self.problems else ""]).rstrip()


def check_data(place: str, *, deep: bool) -> Report:
    """Examine a data set, or several joined by `` + ``; ``deep`` decodes every image.

    A path without a prefix is a folder.

    Raises:
        ValueError: there is no image; the text says what was found.
    """
    report = Report()
    specs = split_sum(place)
    if len(specs) == 1:
        table = _check_one(place, report)
    else:
        check_spec(place)
        table = join_tables(specs, [_check_one(spec, report) for spec in specs])
    _describe(table, report)
    if deep:
        _decode(table, report)
    else:
        report.lines.append("only headers were read: --deep decodes every image too")
    _advise(table, place, report)
    report.advice += _damage_flags(report.reasons, place)
    return report


def _check_one(place: str, report: Report) -> Table:
    if is_spec(place):
        check_spec(place)
    if place.startswith("wds:"):
        return _check_shards(place, report)
    if place.startswith("list:"):
        return _check_list(Path(place.removeprefix("list:")).expanduser(), report)
    path = Path(place.removeprefix("folder:")).expanduser()
    if is_spec(place) and not place.startswith("folder:") and not path.is_dir():
        table = open_data(place, Path("data"), on_bad="keep", download=False)
        report.lines.append(f"{place}: {counted(len(table), 'image')}")
        return table
    with suggesting(place):
        if not path.is_dir():
            raise ValueError(f"{path} is not a folder")
    return _check_folder(path, report)


def _check_list(file: Path, report: Report) -> Table:
    found = inspect_list(file, cache_root())
    report.lines.append(f"{file}: {found.summary.text()}")
    _name_bad(found, report)
    _name_twins(found, report)
    report.advice += _format_flags(found)
    return scan_list(file, cache_root(), "keep").take(np.flatnonzero(found.is_good))


def _name_twins(found: Found, report: Report) -> None:
    twins = duplicates(found)
    if twins:
        shown = "; ".join(" = ".join(names) for names in twins[:5])
        count = sum(len(names) - 1 for names in twins)
        report.lines.append(f"copies of other files: {count:,} ({shown})")


def _check_shards(place: str, report: Report) -> Table:
    table = open_shards(place.removeprefix("wds:"), "keep")
    report.lines.append(f"{place}: {counted(len(table), 'image')}")
    unreadable = np.flatnonzero(table.height == 0)
    bad = table.take(unreadable)
    found = bad_rows(bad)
    report.reasons += [why for _, why in found]
    report.problems += [f"{bad.source.name(row)}: {why}" for row, why in found[:LISTED]]
    if len(found) > LISTED:
        report.problems.append(f"and {len(found) - LISTED:,} more that cannot be read")
    if isinstance(table.source, Shards) and not table.source.are_jpegs:
        report.advice.append(
            f"python tools/write_ffcv.py {shlex.quote(place)} train.beton: PNG and others become "
            "pixels, which are read faster"
        )
    return table.take(np.flatnonzero(table.height))


def _check_folder(path: Path, report: Report) -> Table:
    splits = find_splits(path) if path.is_dir() else None
    if splits is not None:
        report.lines += splits.notes()
        names = [splits.train, *([splits.val] if splits.val else [])]
        report.lines.append(f"{path}: split into {', '.join(f'{s.name}/' for s in names)}")
        if splits.val is not None:
            val = inspect(splits.val, cache_root())
            report.lines.append(f"{splits.val}: {val.summary.text()}")
            _name_bad(val, report)
        path = splits.train
    found = inspect(path, cache_root())
    report.lines.append(f"{path}: {found.summary.text()}")
    report.problems += warnings_of(path, found.names)
    _name_bad(found, report)
    _name_twins(found, report)
    report.advice += _format_flags(found)
    return scan(path, cache_root(), "keep").take(np.flatnonzero(found.is_good))


def _name_bad(found: Found, report: Report) -> None:
    report.reasons += found.bad.values()
    shown = list(found.bad.items())[:LISTED]
    report.problems += [f"{name}: {why}" for name, why in shown]
    if len(found.bad) > LISTED:
        report.problems.append(f"and {len(found.bad) - LISTED:,} more that cannot be read")


def _format_flags(found: Found) -> Iterable[str]:
    kinds = found.summary.kinds
    if kinds and all(kind.channels == 1 for kind in kinds):
        yield "--in-chans 1: all images are gray"
    ints, floats = found.rules.int_range, found.rules.float_range
    if ints is not None and floats is not None:
        yield (
            f"no --depth-range: integer samples ({_range(ints)}) and floating-point samples "
            f"({_range(floats)}) differ, and one flag scales both; each kind has its own measured "
            "range without it, or separate the files"
        )
    elif limits := ints or floats:
        yield (
            f"--depth-range {limits[0]:.10g} {limits[1]:.10g}: the files do not declare their "
            "range; this was measured, and keeps its value when images are added"
        )


def _damage_flags(reasons: Sequence[str], place: str) -> Iterable[str]:
    if enough := enough_for(reasons):
        yield f"--max-pixels {enough}: takes the images over the limit, which need much memory"
    if reasons:
        yield (
            "--on-bad-image replace (write_ffcv.py: --on-error skip): works without "
            f"{counted(len(reasons), 'image')} named above"
        )


def _range(limits: Range) -> str:
    return f"{limits[0]:.10g} to {limits[1]:.10g}"


def duplicates(found: Found) -> list[list[str]]:
    """Return the groups of files with the same bytes; only files of equal size are read."""
    by_size: dict[int, list[str]] = {}
    for name, size in zip(found.listing.names, found.listing.sizes, strict=True):
        by_size.setdefault(size, []).append(name)
    alike = [name for names in by_size.values() if len(names) > 1 for name in names]
    by_content: dict[bytes, list[str]] = {}
    for name in tracked(alike, len(alike), "comparing files of equal size"):
        data = (found.root / name).read_bytes()
        by_content.setdefault(hashlib.sha256(data).digest(), []).append(name)
    return [names for names in by_content.values() if len(names) > 1]


def _describe(table: Table, report: Report) -> None:
    sides = np.minimum(table.height, table.width)[table.height > 0]
    if not len(sides):
        return
    report.lines.append(f"shorter side in pixels: {_quantiles(sides)}")
    ratio = np.maximum(table.height, table.width)[table.height > 0] / sides
    report.lines.append(
        f"longer side / shorter side: median {np.median(ratio):.2f}, largest {ratio.max():.1f}"
    )
    counts = Counter(table.label.tolist())
    unlabeled = counts.pop(-1, 0)
    if counts:
        least, most = min(counts.values()), max(counts.values())
        size = f"{least:,} to {most:,} images" if least < most else counted(most, "image")
        report.lines.append(f"{counted(len(counts), 'class')} of {size}")
    if unlabeled:
        have = "has" if unlabeled == 1 else "have"
        report.lines.append(
            f"{counted(unlabeled, 'image')} {have} no label: no kNN and no probes for them"
        )


def _quantiles(values: NDArray[np.int32]) -> str:
    low, quarter, median, three, high = np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).round()
    return (
        f"smallest {low:,.0f}, quarter {quarter:,.0f}, median {median:,.0f}, "
        f"three quarters {three:,.0f}, largest {high:,.0f}"
    )


def _decode(table: Table, report: Report) -> None:
    bad = bad_rows(table)
    report.reasons += [why for _, why in bad]
    report.problems += [f"{table.source.name(row)}: {why}" for row, why in bad]
    decode = "decodes" if len(table) == 1 else "decode"
    report.lines.append(f"{len(table) - len(bad):,} of {counted(len(table), 'image')} {decode}")


def _advise(table: Table, place: str, report: Report) -> None:
    report.advice += [
        *_size_flags(table),
        *_batch_flags(len(table)),
        *_score_flags(table, place),
    ]
    is_beton = all(isinstance(source, Beton) for source in sources_of(table.source))
    if not is_beton and len(table):
        need = size_text(estimate(table, CACHE_SETTINGS))
        report.lines.append(f"a .beton of it takes about {need} (write_ffcv --keep-jpeg)")


def _size_flags(table: Table) -> Iterable[str]:
    readable = table.height > 0
    if not readable.any():
        return
    side = int(np.median(np.minimum(table.height, table.width)[readable]))
    if side < 160:
        usual = next(s for s in (32, 48, 64, 96, 128) if s >= side or s == 128)
        yield f"--image-size {usual}: half of the images are at most {side} pixels on a side"
    pixels = table.height.astype(np.int64) * table.width
    if int(pixels.max()) > LARGE:
        count = int((pixels > LARGE).sum())
        yield f"write_ffcv.py --max-size 500: {counted(count, 'image')} of over {LARGE:,} pixels"


def _batch_flags(rows: int) -> Iterable[str]:
    if 0 < rows < 256:
        usual = max(1 << (max(rows, 4) // 2).bit_length() - 1, 2)
        yield f"--batch-size {usual} --groups 1: {counted(rows, 'image')}, and 256 is the default"
    elif 256 <= rows < SMALL_SET:
        yield f"--batch-size 128 or less: {rows // 256:,} steps an epoch at 256 are few"


def _score_flags(table: Table, place: str) -> Iterable[str]:
    if not (table.label >= 0).any():
        return
    spec = place if is_spec(split_sum(place)[0]) else f"folder:{place}"
    if default_val(spec) is None:
        yield "--val-fraction 0.1: there are labels, but no validation images"
