"""``list:FILE``: the images that a text file names, a line each, and their classes."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.beton.format import MAX_LABEL
from pipelines.sources.files import Files
from pipelines.sources.folder import LISTED, Found, OnBad, inspect_listing, usable_rows
from pipelines.sources.image_file import RULES, ImageRules
from pipelines.sources.listing import Listing, extensions
from pipelines.sources.table import Table
from pipelines.system.units import counted


@dataclass(frozen=True, slots=True)
class FileList:
    """What a list names, in its order."""

    listing: Listing
    """The files, relative to the folder of the list."""
    words: list[str]
    """The class of each file; empty for none."""


def scan_list(file: Path, cache_dir: Path, on_bad: OnBad, rules: ImageRules = RULES) -> Table:
    """Return the images that ``file`` names, in its order, labelled by its classes.

    Args:
        file: lines ``PATH`` or ``PATH CLASS``, with a tab or a space before the class. A path is
            relative to the folder of ``file``; ``#`` begins a line of comment. Classes are names,
            sorted, or all of them numbers.
        cache_dir: folder of the cached sizes.
        on_bad: as in ``pipelines.sources.folder.scan``.
        rules: what the files become.

    Raises:
        ValueError: the list names no file, one that is missing, or one twice; or files cannot be
            read and ``on_bad`` is ``stop``.
    """
    listed = read_list(file)
    found = _inspected(file, listed, cache_dir, rules)
    good = usable_rows(found, on_bad, file)
    headers = found.headers
    label, classes = _labels(file, listed.words)
    pages = headers.page if headers.page.any() else None
    place = file.expanduser().absolute()
    source = Files(found.root, found.names, found.rules, pages, place)
    table = Table(label[headers.place], headers.height, headers.width, source, classes)
    return table.take(good)


def inspect_list(file: Path, cache_dir: Path, rules: ImageRules = RULES) -> Found:
    """Read the headers of the files of a list; those that cannot be read raise nothing."""
    return _inspected(file, read_list(file), cache_dir, rules)


def _inspected(file: Path, listed: FileList, cache_dir: Path, rules: ImageRules) -> Found:
    place = file.expanduser().absolute()
    return inspect_listing(place.parent, listed.listing, cache_dir, rules, place)


def read_list(file: Path) -> FileList:
    """Read a list, and look for its files; errors as in ``scan_list``."""
    try:
        text = file.expanduser().read_text("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror or error}") from error
    root = file.expanduser().absolute().parent
    names, words, sizes = list[str](), list[str](), list[int]()
    line_of: dict[str, int] = {}
    missing: list[str] = []
    digest = hashlib.sha256()
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        path, word = _divide(line)
        name = str(Path(path))
        if name in line_of:
            raise ValueError(
                f"{file}: line {number} names {name!r}, as line {line_of[name]} does: an image is "
                "one row (--balance FILE draws some more often)"
            )
        line_of[name] = number
        try:
            found = os.stat(root / name)
        except (OSError, ValueError):
            found = None
        if found is None or not stat.S_ISREG(found.st_mode):
            missing.append(f"  line {number}: {root / name}")
            continue
        digest.update(os.fsencode(f"{name}\0{word}\0{found.st_size}\0{found.st_mtime_ns}\n"))
        names.append(name)
        words.append(word)
        sizes.append(found.st_size)
    if missing:
        raise ValueError(_missing(file, missing, len(line_of)))
    if not names:
        raise ValueError(f"{file} names no image: a line holds PATH, or PATH and CLASS")
    return FileList(Listing(names, digest.hexdigest(), sizes=tuple(sizes)), words)


def place_of(source: Files) -> str | None:
    """Return LIST-FILES: digests of a list's place and of its images now; None without a list."""
    if source.listed is None:
        return None
    place = hashlib.sha256(os.fsencode(source.listed.resolve())).hexdigest()
    return f"{place[:8]}-{read_list(source.listed).listing.stamp[:8]}"


def _divide(line: str) -> tuple[str, str]:
    """Return path and class: after the last tab, or after a space that follows an image's name."""
    line = line.strip()
    head, tab, word = line.rpartition("\t")
    if tab:
        return head.strip(), word.strip()
    head, _, word = line.rpartition(" ")
    if os.path.splitext(head.rstrip())[1].lower() in extensions():
        return head.rstrip(), word
    return line, ""


def _missing(file: Path, lines: list[str], count: int) -> str:
    shown = lines[:LISTED]
    if len(lines) > LISTED:
        shown.append(f"  ... and {len(lines) - LISTED:,} more")
    return "\n".join(
        [
            f"{file}: {len(lines):,} of {counted(count, 'file')} are not there (paths are relative "
            "to the folder of the list; a space, and no comma, comes before a class; a class with "
            "spaces follows a tab):",
            *shown,
        ]
    )


def _labels(file: Path, words: list[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the class numbers of words, and the names of the classes if they are no numbers."""
    given = sorted({word for word in words if word})
    if all(re.fullmatch(r"\d{1,9}|-1", word) for word in given):
        label = np.array([int(word or -1) for word in words], np.int64)
        if label.max(initial=-1) > MAX_LABEL:
            raise ValueError(f"{file}: {label.max()} is no class number: at most {MAX_LABEL:,}")
        return label, ()
    number = {name: place for place, name in enumerate(given)} | {"": -1}
    return np.array([number[word] for word in words], np.int64), tuple(given)
