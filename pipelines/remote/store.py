"""Objects in a store: their size and version, ranges of their bytes, listings and uploads."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.remote import errors, hub
from pipelines.remote.connect import RETRY, Retry, in_words, library, opening, place, store_of
from pipelines.remote.errors import RemoteError
from pipelines.remote.url import braces, fixed_folder, is_glob, kind_of, matching, title_of

CHUNK = 1 << 20
"""Bytes of a reply that are handed on at a time."""
PART = 16 << 20
"""Bytes of an upload's part, at least."""
MOST_PARTS = 9_000
"""S3 takes 10,000 parts an upload."""
SMALL = 64 << 20
"""The most bytes of a small read."""


@dataclass
class RemoteObject:
    """One version of an object: every read checks that it is still that one.

    Raises (all reads):
        RemoteError: what the store answered, in words.
    """

    url: str
    size: int
    etag: str | None
    modified: str
    """Time of the last change, ISO 8601; what is compared where there is no ETag."""
    retry: Retry = field(default=RETRY, repr=False)

    @property
    def title(self) -> str:
        """The URL without its query."""
        return title_of(self.url)

    @property
    def version(self) -> str:
        """What tells this version from others."""
        return self.etag or self.modified

    async def chunks(self, begin: int, end: int) -> AsyncGenerator[memoryview, None]:
        """Yield the bytes ``begin`` to ``end - 1`` as they come, about 1 MiB at a time."""
        obs = library()
        store = None
        for last in (False, True):
            try:
                if kind_of(self.url) == "hf":  # may ask the Hub
                    store, path = await asyncio.to_thread(place, self.url, self.retry, store)
                else:
                    store, path = place(self.url, self.retry)
                result = await obs.get_async(store, path, options=self._options(begin, end))
                self._check(result, begin, end)
                break
            except Exception as error:
                if last or not _expired(error, self.url):
                    raise self._words(error) from error
        left = min(end, self.size) - begin
        try:
            if left <= CHUNK:
                yield self._at_most(left, memoryview(await result.bytes_async()))
                return
            async for chunk in result.stream(CHUNK):
                yield self._at_most(left, memoryview(chunk))
                left -= len(chunk)
        except Exception as error:
            raise self._words(error) from error

    def _at_most(self, left: int, chunk: memoryview) -> memoryview:
        """Refuse bytes beyond the range: a reply may be longer than its header says."""
        if len(chunk) > left:
            raise errors.wrong_range(self.title, ValueError("more bytes than in the range"))
        return chunk

    def _options(self, begin: int, end: int) -> dict[str, Any]:
        if self.etag is None or self.etag.startswith("W/"):  # a weak ETag never matches If-Match
            return {"range": (begin, end)}
        return {"range": (begin, end), "if_match": self.etag}

    def _check(self, result: Any, begin: int, end: int) -> None:
        """Compare size, range and version: a server may ignore If-Match."""
        size, version = result.meta["size"], _version(result.meta)
        if size != self.size:
            how = f"{self.size:,} bytes then, {size:,} now"
            raise RemoteError(errors.CHANGED.format(url=self.title, how=how))
        signed_again = kind_of(self.url) == "hf"  # a commit is one version, whatever its hosts say
        if version != (self.etag, self.modified) and not signed_again:
            how = f"ETag {self.version} then, {version[0] or version[1]} now"
            raise RemoteError(errors.CHANGED.format(url=self.title, how=how))
        if result.range != (begin, min(end, self.size)):
            raise errors.wrong_range(self.title, ValueError(f"bytes {result.range}"))

    def _words(self, error: Exception) -> Exception:
        return in_words(error, self.url, self.version)


def open_object(url: str, retry: Retry = RETRY) -> RemoteObject:
    """Ask for the first byte of an object, and return its size and version.

    One request, which also shows whether the server serves ranges and lets us read.

    Raises:
        RemoteError: no such object, no access, no ranges, no answer, or no obstore.
    """
    obs = library()
    store = None
    for last in (False, True):
        try:
            store, path = place(url, opening(retry), store)
            meta = obs.get(store, path, options={"range": (0, 1)}).meta
            break
        except Exception as error:
            if "416 Range Not Satisfiable" in str(error):
                raise RemoteError(f"{title_of(url)}: is empty") from error
            if last or not _expired(error, url):
                raise in_words(error, url, "") from error
    etag, modified = _version(meta)
    return RemoteObject(url, meta["size"], etag, modified, retry)


def read_small(url: str, retry: Retry = RETRY) -> bytes | None:
    """Return a small file that belongs to another, or None where it is not there.

    A store that lets nobody list answers 403 for what is not there, so that is None too.

    Raises:
        RemoteError: no answer, more than 64 MiB, or no obstore.
    """
    obs = library()
    try:
        store, path = place(url, opening(retry))
        result = obs.get(store, path)
        if result.meta["size"] > SMALL:
            raise RemoteError(f"{title_of(url)}: {result.meta['size']:,} bytes, over 64 MiB")
        return bytes(result.bytes())
    except Exception as error:
        missing = ("PermissionDeniedError", "UnauthenticatedError", "FileNotFoundError")
        if type(error).__name__ in missing:
            return None
        raise in_words(error, url, "") from error


def expand(pattern: str, retry: Retry = RETRY) -> list[str]:
    """Return the URLs of a pattern: braces in their order, what a wildcard matches by name.

    ``{000..146}`` and ``{a,b}`` need no listing. ``*``, ``?`` and ``[...]`` do: they match within
    one folder, and a web server cannot list.

    Raises:
        RemoteError: nothing matches, or the store cannot be listed.
    """
    found: list[str] = []
    for url in braces(pattern):
        found += _listed(url, retry) if is_glob(url) else [url]
    return found


def upload(path: Path, url: str, replace: bool = False, retry: Retry = RETRY) -> None:
    """Copy a local file to a store, in parts; nothing is visible before the last one.

    Raises:
        RemoteError: the object exists and ``replace`` is False, or the store refuses.
    """
    obs = library()
    if kind_of(url) in ("http", "hf"):
        raise RemoteError(f"{title_of(url)}: cannot be written; s3://, gs:// and az:// can")
    store, key = place(url, retry)
    part = max(PART, -(-path.stat().st_size // MOST_PARTS))
    try:
        if not replace and _exists(obs, store, key):
            raise RemoteError(f"{url}: exists already; --overwrite replaces it")
        asyncio.run(_put(obs, store, key, path, part))  # Ctrl-C ends it, unlike obstore.put
    except Exception as error:
        raise in_words(error, url, "") from error


async def _put(obs: Any, store: Any, key: str, path: Path, part: int) -> None:
    await obs.put_async(store, key, path, use_multipart=True, chunk_size=part, max_concurrency=4)


def _exists(obs: Any, store: Any, key: str) -> bool:
    try:
        obs.head(store, key)
    except FileNotFoundError:
        return False
    return True


def _listed(url: str, retry: Retry) -> list[str]:
    folder = fixed_folder(url)
    kind = kind_of(url)
    if kind == "http":
        raise RemoteError(f"{title_of(url)}: a web server lists no files; {{000..146}} names them")
    if kind == "hf":
        urls = hub.files(folder)
    else:
        obs, root = library(), store_of(folder, opening(retry), os.getpid())
        try:
            entries = [entry for chunk in obs.list(root) for entry in chunk]
        except Exception as error:
            raise in_words(error, url, "") from error
        prefix = str(root.prefix or "")
        names = (entry["path"].removeprefix(prefix).lstrip("/") for entry in entries)
        urls = [f"{folder}/{name}" for name in names]
    found = matching(urls, url)
    if not found:
        raise RemoteError(f"{url}: matches none of the {len(urls):,} files below {folder}")
    return found


def _expired(error: Exception, url: str) -> bool:
    """Whether a signature of the Hub may have expired, so that a new one helps."""
    denied = type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError")
    return denied and kind_of(url) == "hf"


def _version(meta: Mapping[str, Any]) -> tuple[str | None, str]:
    return meta["e_tag"], meta["last_modified"].isoformat()
