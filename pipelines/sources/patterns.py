"""File names with globs and braces: ``train-{000..146}.tar``, ``part-{a,b}``, ``*.parquet``."""

from __future__ import annotations

import glob
from pathlib import Path

from pipelines.remote.url import braces, is_remote


def expand_files(pattern: str, prefix: str = "") -> list[Path]:
    """Return the files of a pattern: braces in their order, the matches of each glob sorted.

    Args:
        pattern: a path.
        prefix: what stands before it in messages, as ``wds:``.

    Raises:
        ValueError: a brace has no other half, or counts downwards; a file is missing, or a glob
            matches none.
    """
    paths: list[Path] = []
    for name in braces(str(Path(pattern).expanduser())):
        found = sorted(glob.glob(name)) if glob.has_magic(name) else [name]
        here = [Path(file) for file in found]
        missing = next((file for file in here if not file.is_file()), None)
        if missing is not None or not here:
            raise ValueError(f"{prefix}{pattern}: {missing or name} {_why(missing or Path(name))}")
        paths.extend(here)
    return paths


def _why(path: Path) -> str:
    return "is a folder: name the files in it" if path.is_dir() else "does not exist"


def check_files(pattern: str, prefix: str = "") -> None:
    """Refuse a pattern without files, as far as that is known without a store's answer.

    Raises:
        ValueError: a local file is missing, or a URL is none.
    """
    if is_remote(pattern):
        if pattern != pattern.strip():
            raise ValueError(f"{prefix}{pattern!r}: a URL ends without spaces")
        braces(pattern)
    else:
        expand_files(pattern, prefix)
