"""How remote files are fetched and kept, and what a URL of one looks like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SCHEMES = ("s3", "gs", "az", "abfs", "http", "https", "hf")
"""Stores that can be read; ``s3://BUCKET/PATH``, ``hf://datasets/ORG/NAME/PATH``."""


@dataclass(frozen=True, slots=True)
class RemoteOptions:
    """How remote files are fetched and kept. No option changes what is read."""

    cache_dir: Path | None = None
    """Folder of the pieces, below ``remote/`` in it; None: the cache (``$UNMIX_CACHE``)."""
    cache_size: int | None = None
    """Bytes that the pieces of all remote files may take; None: as many as the files have."""
    connections: int = 32
    """Requests in flight at a time, for each process."""


REMOTE = RemoteOptions()


def is_url(text: str) -> bool:
    """Whether the text is the URL of a remote file, by its scheme.

    >>> is_url("s3://bucket/train.beton"), is_url("data/train.beton"), is_url("ftp://host/a")
    (True, False, False)
    """
    scheme, found, rest = text.partition("://")
    return bool(found and rest) and scheme in SCHEMES
