"""Write a ``.beton`` to an object store: on a local disk first, then in one upload.

The format's header is written last and its rows first, so a file cannot be sent while it grows.
Nothing is visible in the store before the file is complete there; its manifest follows.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.beton.format import manifest_path
from pipelines.remote.errors import RemoteError, is_about_bucket
from pipelines.remote.file import piece_checksums
from pipelines.remote.store import open_object, upload
from pipelines.remote.url import kind_of, split, title_of
from pipelines.system import cache
from pipelines.system.units import size_text

log = logging.getLogger(__name__)

WRITABLE = ("s3", "gs", "az")
"""Kinds of stores that take files."""


def check_destination(url: str, overwrite: bool) -> None:
    """Refuse, before any work, a place that cannot be written.

    Raises:
        ValueError: it is no store that takes files, there is no such bucket, the file exists and
            ``overwrite`` is False, or the store does not let us read.
    """
    if kind_of(url) not in WRITABLE:
        raise ValueError(
            f"{title_of(url)} cannot be written: OUT is a local file, or one of s3://, gs:// or az://"
        )
    try:
        open_object(url)
    except RemoteError as error:
        if isinstance(error.__cause__, FileNotFoundError) and not is_about_bucket(error.__cause__):
            return
        raise
    if not overwrite:
        raise ValueError(f"{url} exists: --overwrite replaces it, or choose another OUT")


@contextmanager
def uploaded(url: str, folder: Path | None = None) -> Iterator[Path]:
    """Yield a local path; the ``.beton`` and the manifest written there are sent after the block.

    The manifest gets the CRC-32 of each piece of the file, ``crc``, which its readers check.

    Args:
        url: where the file goes; an object of this name is replaced.
        folder: a folder on the disk where the file is made; None: the cache.

    Raises:
        ValueError: the store refused; the text names the finished file, which stays.
    """
    _, name = split(url)
    place = (cache.cache_root() if folder is None else folder).expanduser()
    with cache.writing():
        place.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".tmp", dir=place))
    cache.hold(work)
    try:
        yield work / name
        _add_checksums(work / name)
        try:
            _send(work / name, url)
        except RemoteError as error:
            kept = work.rename(place / f"unsent-{work.name.removesuffix('.tmp').lstrip('.')}")
            raise ValueError(
                f"{error}\nThe file is complete: {kept / name} and {name}.json can be copied with "
                "the store's own command; remove them then"
            ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _add_checksums(path: Path) -> None:
    manifest = json.loads(manifest_path(path).read_bytes())
    manifest["crc"] = piece_checksums(path)
    manifest_path(path).write_text(json.dumps(manifest, indent=1) + "\n")


def _send(path: Path, url: str) -> None:
    log.info("sending %s to %s", size_text(path.stat().st_size), url)
    upload(path, url, replace=True)
    upload(manifest_path(path), f"{url}.json", replace=True)
