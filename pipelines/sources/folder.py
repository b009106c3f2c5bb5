"""A folder of images as a ``Table``; sizes are read from the headers once and cached."""

from __future__ import annotations

import difflib
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.sources.files import Files
from pipelines.sources.headers import describe, other_bands, read_headers
from pipelines.sources.image_file import RULES, ImageRules
from pipelines.sources.table import Table

log = logging.getLogger(__name__)

OnBad = Literal["stop", "replace", "keep"]
EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
)
LISTED = 20
"""Number of bad files that a message names; the others are counted."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The image files below a folder, sorted by path; ``stamp`` changes if any of them does."""

    names: list[str]
    stamp: str


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
    root = path.expanduser().absolute()
    if not root.is_dir():
        raise ValueError(f"{path} is not a folder")
    if keep_classes is not None:
        folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
        check_classes(keep_classes, folders, str(path))
    listing = list_images(root, keep_classes)
    if not listing.names:
        raise ValueError(f"{path} holds no images ({' '.join(sorted(EXTENSIONS))})")
    headers = read_headers(root, listing.names, listing.stamp, rules, cache_dir)
    bad = headers.bad | other_bands(root, listing.names, headers, rules, on_bad)
    if on_bad != "keep":
        report_bad(bad, on_bad)
    names = [listing.names[file] for file in headers.place.tolist()]
    is_good = np.array([str(root / name) not in bad for name in names], np.bool_)
    good = np.flatnonzero(is_good | (on_bad == "keep"))
    if not len(good):
        raise ValueError(f"{path}: not one of {len(listing.names)} images can be read")
    rules = headers.ranged(rules, np.flatnonzero(is_good))
    describe(headers, rules, str(path))
    label, classes = _label(path, names, keep_classes)
    source = Files(root, names, rules, headers.page if headers.page.any() else None)
    return Table(label, headers.height, headers.width, source, classes).take(good)


def report_bad(bad: dict[str, str], on_bad: OnBad) -> None:
    """Name the bad files (name -> reason) in a ValueError, or in one warning."""
    if not bad:
        return
    lines = [f"  {name}: {why}" for name, why in list(bad.items())[:LISTED]]
    if len(bad) > LISTED:
        lines.append(f"  ... and {len(bad) - LISTED} more")
    text = "\n".join([f"{len(bad)} files cannot be read:", *lines])
    if on_bad == "stop":
        raise ValueError(f"{text}\nDelete them, or leave them out with --on-bad-image replace.")
    log.warning("%s\nThey are left out.", text)


def list_images(root: Path, folders: Sequence[str] | None = None) -> Listing:
    """Find the image files below ``root``, or below these sub-folders of it."""
    tops = [root] if folders is None else [root / name for name in folders]
    found: list[tuple[str, int, int]] = []
    for top in tops:
        if top.is_dir():
            found.extend(_walk(str(top), str(root), frozenset()))
    found.sort()
    digest = hashlib.sha256()
    for name, size, changed in found:
        digest.update(os.fsencode(f"{name}\0{size}\0{changed}\n"))
    return Listing([name for name, _, _ in found], digest.hexdigest())


def _walk(folder: str, root: str, above: frozenset[str]) -> Iterator[tuple[str, int, int]]:
    """Yield relative path, size and time of each image; a link to a parent is not followed."""
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(entry.path, root, above | {real})
            elif is_image(entry.name) and entry.is_file():
                stat = entry.stat()
                yield os.path.relpath(entry.path, root), stat.st_size, stat.st_mtime_ns


def is_image(name: str) -> bool:
    """Whether the extension is an image's; macOS's ``._*`` companion files are no images."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS and not name.startswith("._")


def _label(
    path: Path, names: Sequence[str], keep: Sequence[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    tops = [name.split(os.sep, 1)[0] if os.sep in name else "" for name in names]
    if loose := tops.count(""):
        if loose < len(names):
            log.warning("%s: %d images lie in no class folder: no labels are used", path, loose)
        return np.full(len(names), -1, np.int64), ()
    classes = tuple(sorted(set(tops)) if keep is None else keep)
    check_classes(classes, sorted(set(tops)), str(path))
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[top] for top in tops], np.int64), classes


def check_classes(wanted: Sequence[str], known: Sequence[str], where: str) -> None:
    """Raise ``ValueError`` for a class that ``where`` does not have; suggest the nearest name."""
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {len(known)} others"
            raise ValueError(f"{where} has no images of a class {name!r}; {hint}")
