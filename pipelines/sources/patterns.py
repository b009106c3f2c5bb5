"""File names with globs and braces: ``train-{000..146}.tar``, ``part-{a,b}``, ``*.parquet``."""

from __future__ import annotations

import glob
from pathlib import Path

from pipelines.remote.url import braces


def expand_files(pattern: str) -> list[Path]:
    """Return the files of a pattern: braces in their order, the matches of each glob sorted.

    Raises:
        ValueError: a brace has no other half, or counts downwards.
        FileNotFoundError: a file is missing, or a glob matches none; its ``filename`` is the name.
    """
    paths: list[Path] = []
    for name in braces(str(Path(pattern).expanduser())):
        found = sorted(glob.glob(name)) if glob.has_magic(name) else [name]
        here = [Path(file) for file in found]
        missing = next((file for file in here if not file.is_file()), None)
        if missing is not None or not here:
            raise FileNotFoundError(2, "no such file", str(missing or name))
        paths.extend(here)
    return paths
