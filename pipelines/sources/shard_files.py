"""Which tar files a pattern names, and the state that they are in."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from pipelines.remote.file import RemoteOptions, open_all
from pipelines.remote.store import expand
from pipelines.remote.url import braces, is_remote, kind_of
from pipelines.sources.patterns import check_files, expand_files
from pipelines.sources.splits import NAMES
from pipelines.system.cache import cache_root
from pipelines.system.open_files import REMOTE, allow_open_files
from pipelines.system.stored_file import LocalFile, StoredFile


def find_shards(pattern: str, remote: RemoteOptions | None = None) -> tuple[StoredFile, ...]:
    """Return the files of a pattern, a path or URL, in its order.

    ``remote`` says how files of a store are fetched and kept; None: below the cache.

    Raises:
        ValueError: one is missing, or a glob matches none.
    """
    if is_remote(pattern):
        urls = expand(pattern)
        allow_open_files(REMOTE * len(urls), f"wds:{pattern}")
        return tuple(open_all(urls, remote or RemoteOptions(cache_root())))
    paths = expand_files(pattern, "wds:")
    allow_open_files(len(paths), f"wds:{pattern}")
    return tuple(LocalFile(path) for path in paths)


def check_shards(spec: str) -> None:
    """Refuse ``wds:PATTERN`` without files, as far as that is known without a store's answer.

    Raises:
        ValueError: a local shard is missing, a URL is none, or the pattern is a command.
    """
    pattern = spec.removeprefix("wds:")
    if pattern.startswith("pipe:"):
        raise ValueError(
            f"{spec}: rows are read in any order, which no pipe allows: name the files or "
            "URLs themselves, as wds:s3://BUCKET/train-{000..146}.tar"
        )
    if Path(pattern).expanduser().is_dir():
        inside = f"{spec.rstrip('/')}/*.tar"
        raise ValueError(f"{pattern} is a folder: for the tar shards in it write {inside!r}")
    check_files(pattern, "wds:")


def state_of(files: tuple[StoredFile, ...]) -> str:
    """Return a digest of the names, sizes and times of files; of remote ones, of their versions."""
    digest = hashlib.sha256()
    for file in files:
        if isinstance(file, LocalFile):
            found = file.path.stat()
            words = [os.path.abspath(file.path), str(found.st_size), str(found.st_mtime_ns)]
        else:  # its folder is named by a digest of URL, version and size
            words = [file.title, file.path.parent.name]
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
            if all(map(_is_there, braces(other))):
                return other, name in NAMES["test"]
    return None


def _is_there(pattern: str) -> bool:
    try:
        if is_remote(pattern):  # a web server lists no files
            return kind_of(pattern) != "http" and bool(expand(pattern))
        return bool(expand_files(pattern))
    except ValueError:
        return False
