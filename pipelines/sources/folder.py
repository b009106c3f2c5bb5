"""A folder of images as a ``Table``; sizes are read from the headers once and cached."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.sources.classes import check_classes
from pipelines.sources.files import Files
from pipelines.sources.headers import Headers, describe, other_bands, read_headers
from pipelines.sources.image_file import RULES, ImageRules
from pipelines.sources.listing import UNREADABLE, LeftOut, Listing, list_images
from pipelines.sources.splits import warnings_of
from pipelines.sources.summary import Summary, summarize
from pipelines.sources.table import Table
from pipelines.system.progress import print_once
from pipelines.system.units import counted

log = logging.getLogger(__name__)

OnBad = Literal["stop", "replace", "keep"]
LISTED = 20
"""Number of bad files that a message names; the others are counted."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is below a folder; every name is relative to ``root``."""

    root: Path
    listing: Listing
    headers: Headers
    rules: ImageRules
    """What the files become, with the ranges measured in them."""
    bad: dict[str, str]
    """Path -> reason of the files that cannot be read, or have other bands than ``rules``."""
    summary: Summary

    @property
    def names(self) -> list[str]:
        """The file of each row."""
        return [self.listing.names[file] for file in self.headers.place.tolist()]

    @property
    def is_good(self) -> NDArray[np.bool_]:
        """Whether each row can be read, (n,)."""
        return _is_good(self.root, self.names, self.bad)


def inspect(
    path: Path,
    cache_dir: Path,
    keep_classes: Sequence[str] | None = None,
    rules: ImageRules = RULES,
) -> Found:
    """Find the images below ``path`` and read their headers; arguments and errors as in ``scan``.

    Files that cannot be read, or have other bands, raise nothing.
    """
    root = path.expanduser().absolute()
    if not root.is_dir():
        raise ValueError(f"{path} is not a folder")
    if keep_classes is not None:
        folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
        check_classes(keep_classes, folders, str(path))
    listing = list_images(root, keep_classes)
    if not listing.names:
        raise ValueError(_no_images(path, listing.left_out))
    return inspect_listing(root, listing, cache_dir, rules)


def inspect_listing(
    root: Path, listing: Listing, cache_dir: Path, rules: ImageRules, place: Path | None = None
) -> Found:
    """Read the headers of listed files; ``place`` tells cached headers apart (default: root)."""
    headers = read_headers(root, listing.names, listing.stamp, rules, cache_dir, place)
    bad = headers.bad | other_bands(root, listing.names, headers, rules)
    names = [listing.names[file] for file in headers.place.tolist()]
    is_good = _is_good(root, names, bad)
    rules = headers.ranged(rules, np.flatnonzero(is_good))
    summary = summarize(headers, rules, listing.left_out, is_good)
    return Found(root, listing, headers, rules, bad, summary)


def scan(
    path: Path,
    cache_dir: Path,
    on_bad: OnBad,
    keep_classes: Sequence[str] | None = None,
    rules: ImageRules = RULES,
) -> Table:
    """Return the images below ``path``, labelled by their first-level folder.

    If an image lies directly below ``path``, the folder has no classes and all labels are -1.

    Args:
        path: folder of any depth; links are followed.
        cache_dir: folder of the cached sizes, which hold until a file's name, size or time changes.
        on_bad: ``stop`` raises if a header cannot be read, ``replace`` leaves the file out,
            ``keep`` lists it with height and width 0, so that the writer can name it.
        keep_classes: use only these first-level folders, labelled in this order.
        rules: what the files become.

    Raises:
        ValueError: there is no folder or no image, a class is unknown, or files cannot be read and
            ``on_bad`` is ``stop``.
    """
    found = inspect(path, cache_dir, keep_classes, rules)
    headers, names = found.headers, found.names
    good = usable_rows(found, on_bad, found.root if path == Path() else path)
    if keep_classes is None:
        for line in warnings_of(path, names):
            print_once(log, line)
    label, classes = _label(path, names, keep_classes)
    source = Files(found.root, names, found.rules, headers.page if headers.page.any() else None)
    return Table(label, headers.height, headers.width, source, classes).take(good)


def usable_rows(found: Found, on_bad: OnBad, where: Path) -> NDArray[np.int64]:
    """Return the rows that can be read, or with ``keep`` all, and print what was found.

    Raises:
        ValueError: there are none, or some cannot be read and ``on_bad`` is ``stop``.
    """
    if on_bad != "keep":
        other = {name: why for name, why in found.bad.items() if name not in found.headers.bad}
        counts = len(found.listing.names), len(found.names)
        report_unfit(str(where.expanduser().absolute()), *counts, found.headers.bad, other, on_bad)
    good = np.flatnonzero(found.is_good | (on_bad == "keep"))
    if not len(good):
        raise ValueError(f"{where}: not one of {len(found.listing.names)} images can be read")
    print_once(log, f"{where}: {found.summary.text()}", logging.INFO)
    describe(found.headers, found.rules, str(where))
    return good


def _is_good(root: Path, names: Sequence[str], bad: dict[str, str]) -> NDArray[np.bool_]:
    if not bad:
        return np.ones(len(names), np.bool_)
    return np.array([os.path.join(root, name) not in bad for name in names], np.bool_)


def _no_images(path: Path, left_out: LeftOut) -> str:
    found = left_out.text()
    lines = [f"{path} holds no images: " + (f"only {found}" if found else "it is empty")]
    if left_out.endings.keys() & UNREADABLE:
        lines.append("Pillow cannot decode these here: convert them, for example to JPEG")
    if ".tar" in left_out.endings:
        lines.append(f"tar shards are named as 'wds:{path}/*.tar'")
    if ".parquet" in left_out.endings:
        lines.append(f"parquet: python tools/write_ffcv.py 'parquet:{path}/*.parquet' train.beton")
    if ".beton" in left_out.endings:
        lines.append("a .beton is named itself, as --data PATH.beton")
    return "\n".join(lines)


def report_unfit(
    where: str,
    files: int,
    rows: int,
    unreadable: dict[str, str],
    other: dict[str, str],
    on_bad: OnBad,
) -> None:
    """Name the bad files as ``report_bad``, those of ``other`` bands first.

    Args:
        where: what messages call the data set.
        files: number of its files.
        rows: number of its images.
        unreadable: name -> reason of the files that cannot be read.
        other: name -> reason of those with other bands.
        on_bad: what to do with them.
    """
    if not other:
        return report_bad(unreadable, on_bad)
    if len(unreadable) + len(other) == files and len(set(other.values())) == 1:
        lines = [f"{where}: {next(iter(other.values()))}"]
        lines += _listed(unreadable) if unreadable else []
        raise ValueError("\n".join(lines))
    lines = [
        f"{where} mixes images of different bands, and a network takes one number: "
        f"{len(other):,} of {counted(rows, 'image')} cannot be used:",
        *_named(other),
        *(_listed(unreadable) if unreadable else []),
    ]
    return _stop_or_warn(lines, on_bad, "Move them elsewhere")


def report_bad(bad: dict[str, str], on_bad: OnBad) -> None:
    """Name the bad files (name -> reason) in a ValueError, or in one warning."""
    if bad:
        _stop_or_warn(_listed(bad), on_bad, "Delete them")


def _listed(bad: dict[str, str]) -> list[str]:
    lines = [f"{counted(len(bad), 'file')} cannot be read:", *_named(bad)]
    if any("Permission denied" in why for why in bad.values()):
        lines.append("Give this user the right to read them: chmod u+r FILE.")
    return lines


def _named(bad: dict[str, str]) -> list[str]:
    lines = [f"  {name}: {why}" for name, why in list(bad.items())[:LISTED]]
    return lines + ([f"  ... and {len(bad) - LISTED} more"] if len(bad) > LISTED else [])


def _stop_or_warn(lines: Sequence[str], on_bad: OnBad, remedy: str) -> None:
    text = "\n".join(lines)
    if on_bad == "stop":
        raise ValueError(f"{text}\n{remedy}, or leave them out with --on-bad-image replace.")
    log.warning("%s\nThey are left out.", text)


def _label(
    path: Path, names: Sequence[str], keep: Sequence[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    tops = [name.split(os.sep, 1)[0] if os.sep in name else "" for name in names]
    if "" in tops:
        return np.full(len(names), -1, np.int64), ()
    classes = tuple(sorted(set(tops)) if keep is None else keep)
    check_classes(classes, sorted(set(tops)), str(path))
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[top] for top in tops], np.int64), classes
