"""File names with globs and braces: ``train-{000..146}.tar``, ``part-{a,b}``, ``*.parquet``."""

from __future__ import annotations

import glob
import re
from pathlib import Path


def expand_braces(pattern: str) -> list[str]:
    """Return the names that the braces of a pattern make, in order; globs stay as they are."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    if numbers := re.fullmatch(r"(\d+)\.\.(\d+)", match[1]):
        first, last = numbers.groups()
        choices = [f"{i:0{len(first)}}" for i in range(int(first), int(last) + 1)]
    else:
        choices = match[1].split(",")
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [name for choice in choices for name in expand_braces(head + choice + tail)]


def expand_files(pattern: str) -> list[Path]:
    """Return the files of a pattern: braces in their order, the matches of each glob sorted.

    Raises:
        FileNotFoundError: a file is missing, or a glob matches none; its ``filename`` is the name.
    """
    paths: list[Path] = []
    for name in expand_braces(str(Path(pattern).expanduser())):
        found = sorted(glob.glob(name)) if glob.has_magic(name) else [name]
        here = [Path(file) for file in found]
        missing = next((file for file in here if not file.is_file()), None)
        if missing is not None or not here:
            raise FileNotFoundError(2, "no such file", str(missing or name))
        paths.extend(here)
    return paths
