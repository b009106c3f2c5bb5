"""Which tar files a pattern names, and the state that they are in."""

from __future__ import annotations

import hashlib
import os
import re

from pipelines.sources.patterns import expand_braces, expand_files
from pipelines.sources.splits import NAMES
from pipelines.system.stored_file import LocalFile, StoredFile


def find_shards(pattern: str) -> tuple[StoredFile, ...]:
    """Return the files of a pattern, in its order.

    Raises:
        ValueError: one is missing, or a glob matches none.
    """
    try:
        paths = expand_files(pattern)
    except FileNotFoundError as error:
        raise ValueError(f"wds:{pattern}: no shard {error.filename}") from error
    return tuple(LocalFile(path) for path in paths)


def state_of(files: tuple[StoredFile, ...]) -> str:
    """Return a digest of the names, sizes and times of files."""
    digest = hashlib.sha256()
    for file in files:
        found = file.path.stat()
        words = (os.path.abspath(file.path), str(found.st_size), str(found.st_mtime_ns))
        digest.update(os.fsencode("\0".join(words) + "\n"))
    return digest.hexdigest()


def val_pattern(pattern: str) -> tuple[str, bool] | None:
    """Return the pattern of the validation shards of ``pattern``, and whether it is a test split.

    In the last place of the pattern, "train" becomes the name of that split, and numbers in braces
    become any, because there are fewer such shards: ``val-*.tar`` for ``train-{000..146}.tar``.
    """
    for name in (*NAMES["val"], *NAMES["test"]):
        other = re.sub(r"train(?:ing)?(?!.*train)", name, pattern)
        if other != pattern:
            other = re.sub(r"\{\d+\.\.\d+\}", "*", other)
            if all(map(_is_there, expand_braces(other))):
                return other, name in NAMES["test"]
    return None


def _is_there(pattern: str) -> bool:
    try:
        return bool(expand_files(pattern))
    except FileNotFoundError:
        return False
