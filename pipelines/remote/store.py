"""Objects in a store: their size and version, ranges of their bytes, listings and uploads.

The only file that imports obstore (extra ``remote``), which speaks S3, Google Cloud Storage,
Azure and HTTP, retries what can be retried, and resumes a broken reply in the middle.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import importlib.util
import os
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.remote import errors, hub
from pipelines.remote.errors import RemoteError
from pipelines.remote.url import braces, fixed_folder, is_glob, kind_of, matching, split, title_of

CHUNK = 1 << 20
"""Bytes of a reply that are handed on at a time."""
PART = 16 << 20
"""Bytes of an upload's part, at least."""
MOST_PARTS = 9_000
"""S3 takes 10,000 parts an upload."""
SMALL = 64 << 20
"""The most bytes of a small read."""


@dataclass(frozen=True)
class Retry:
    """How long a failing request is repeated: 5xx, 429, resets, silence, short replies."""

    attempts: int = 10
    first_wait: float = 0.1
    """Seconds before the second attempt; each further wait is about twice as long."""
    longest_wait: float = 15.0
    silence: float = 30.0
    """Seconds without a byte after which a reply counts as lost."""
    total: float = 180.0
    """Seconds from the first attempt after which none follows."""


RETRY = Retry()


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

    def get(self, begin: int, end: int) -> bytes:
        """Return the bytes ``begin`` to ``end - 1``; waits for them."""
        obs = _obstore()
        for fresh in (False, True):
            try:
                store, path = _place(self.url, self.retry, fresh)
                result = obs.get(store, path, options=self._options(begin, end))
                self._check(result, begin, end)
                return bytes(result.bytes())
            except Exception as error:
                if not self._moved(error, fresh):
                    raise self._words(error) from error
        raise AssertionError

    async def chunks(self, begin: int, end: int) -> AsyncGenerator[memoryview, None]:
        """Yield the bytes ``begin`` to ``end - 1`` as they come, about 1 MiB at a time."""
        obs = _obstore()
        for fresh in (False, True):
            try:
                store, path = _place(self.url, self.retry, fresh)
                result = await obs.get_async(store, path, options=self._options(begin, end))
                self._check(result, begin, end)
                break
            except Exception as error:
                if not self._moved(error, fresh):
                    raise self._words(error) from error
        try:
            async for chunk in result.stream(CHUNK):
                yield memoryview(chunk)
        except Exception as error:
            raise self._words(error) from error

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

    def _moved(self, error: Exception, fresh: bool) -> bool:
        """Whether a signature of the Hub may have expired, so that a new one helps."""
        denied = type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError")
        return denied and not fresh and kind_of(self.url) == "hf"

    def _words(self, error: Exception) -> Exception:
        return _words(error, self.url, self.version)


def open_object(url: str, retry: Retry = RETRY) -> RemoteObject:
    """Ask for the first byte of an object, and return its size and version.

    One request, which also shows whether the server serves ranges and lets us read.

    Raises:
        RemoteError: no such object, no access, no ranges, no answer, or no obstore.
    """
    obs = _obstore()
    for fresh in (False, True):
        try:
            store, path = _place(url, retry, fresh)
            meta = obs.get(store, path, options={"range": (0, 1)}).meta
            break
        except Exception as error:
            if "416 Range Not Satisfiable" in str(error):
                raise RemoteError(f"{title_of(url)}: is empty") from error
            if fresh or kind_of(url) != "hf" or isinstance(error, RemoteError):
                raise _words(error, url, "") from error
    etag, modified = _version(meta)
    return RemoteObject(url, meta["size"], etag, modified, retry)


def read_small(url: str, retry: Retry = RETRY) -> bytes | None:
    """Return a small file that belongs to another, or None where it is not there.

    A store that lets nobody list answers 403 for what is not there, so that is None too.

    Raises:
        RemoteError: no answer, more than 64 MiB, or no obstore.
    """
    obs = _obstore()
    try:
        store, path = _place(url, retry, fresh=False)
        result = obs.get(store, path)
        if result.meta["size"] > SMALL:
            raise RemoteError(f"{title_of(url)}: {result.meta['size']:,} bytes, over 64 MiB")
        return bytes(result.bytes())
    except Exception as error:
        missing = ("PermissionDeniedError", "UnauthenticatedError", "FileNotFoundError")
        if type(error).__name__ in missing:
            return None
        raise _words(error, url, "") from error


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
    obs = _obstore()
    if kind_of(url) in ("http", "hf"):
        raise RemoteError(f"{title_of(url)}: cannot be written; s3://, gs:// and az:// can")
    store, key = _place(url, retry, fresh=False)
    part = max(PART, -(-path.stat().st_size // MOST_PARTS))
    try:
        if not replace and _exists(obs, store, key):
            raise RemoteError(f"{url}: exists already; --force replaces it")
        asyncio.run(_put(obs, store, key, path, part))  # Ctrl-C ends it, unlike obstore.put
    except Exception as error:
        raise _words(error, url, "") from error


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
        obs, root = _obstore(), _store(folder, retry, os.getpid())
        try:
            entries = [entry for chunk in obs.list(root) for entry in chunk]
        except Exception as error:
            raise _words(error, url, "") from error
        prefix = str(root.prefix or "")
        names = (entry["path"].removeprefix(prefix).lstrip("/") for entry in entries)
        urls = [f"{folder}/{name}" for name in names]
    found = matching(urls, url)
    if not found:
        raise RemoteError(f"{url}: matches none of the {len(urls):,} files below {folder}")
    return found


def _version(meta: Mapping[str, Any]) -> tuple[str | None, str]:
    return meta["e_tag"], meta["last_modified"].isoformat()


def _place(url: str, retry: Retry, fresh: bool) -> tuple[Any, str]:
    """Return the store of a URL and the path in it; ``fresh`` asks the Hub again."""
    _obstore()
    pid = os.getpid()
    kind = kind_of(url)
    if kind == "hf":
        if fresh:
            _located.cache_clear()
        at, headers = _located(url, pid)
        return _store(at, retry, pid, tuple(headers.items())), ""
    folder, name = split(url)
    if kind == "http" and ("?" in url or "%" in url):
        return _store(url, retry, pid), ""
    return _store(folder, retry, pid), name


@functools.lru_cache(4096)
def _located(url: str, pid: int) -> tuple[str, dict[str, str]]:
    return hub.locate(url)


@functools.lru_cache(256)
def _store(url: str, retry: Retry, pid: int, headers: tuple[tuple[str, str], ...] = ()) -> Any:
    """Return the store of a folder, or of a whole URL in http; one set of connections each."""
    _obstore()
    from obstore.store import HTTPStore, from_url

    def seconds(value: float) -> datetime.timedelta:
        return datetime.timedelta(seconds=value)

    client: Any = {
        "read_timeout": seconds(retry.silence),
        "timeout": seconds(max(600.0, retry.silence)),  # a slow reply is no lost one
        "allow_http": _allows_http(url),
    }
    if headers:
        client["default_headers"] = dict(headers)
    again: Any = {
        "max_retries": retry.attempts,
        "retry_timeout": seconds(retry.total),
        "backoff": {
            "init_backoff": seconds(retry.first_wait),
            "max_backoff": seconds(retry.longest_wait),
        },
    }
    try:
        if url.startswith("http"):
            return HTTPStore.from_url(url, client_options=client, retry_config=again)
        provider = _aws_profile() if kind_of(url) == "s3" else None
        more: Any = {"credential_provider": provider} if provider else {}
        return from_url(url, client_options=client, retry_config=again, **more)
    except Exception as error:
        raise RemoteError(f"{title_of(url)}: {errors.reason(error)}") from error


def _allows_http(url: str) -> bool:
    """Whether unencrypted http is asked for, by the URL or by a variable that names a server."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT")
    named = next((os.environ[name] for name in names if os.environ.get(name)), "")
    allowed = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true")
    return url.startswith("http://") or named.startswith("http://") or allowed


def _aws_profile() -> Any:
    """Return a provider for the profiles of ``~/.aws``, or None; needs boto3."""
    files = (
        ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
        ("AWS_CONFIG_FILE", "~/.aws/config"),
    )
    saved = any(Path(os.environ.get(name, path)).expanduser().is_file() for name, path in files)
    plain = os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_SKIP_SIGNATURE")
    if plain or not (os.environ.get("AWS_PROFILE") or saved):
        return None
    if importlib.util.find_spec("boto3") is None:
        return None
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        return Boto3CredentialProvider()
    except ValueError:  # no credentials in the profile
        return None


def _words(error: Exception, url: str, version: str) -> Exception:
    """Return what to raise: the library's errors in words, others unchanged."""
    name, title, kind = type(error).__name__, title_of(url), kind_of(url)
    if isinstance(error, RemoteError):
        return error
    if name == "FileNotFoundError":
        return errors.not_found(title, kind)
    if name in ("PermissionDeniedError", "UnauthenticatedError"):
        return errors.no_access(title, kind, error)
    if name == "PreconditionError":
        return RemoteError(errors.CHANGED.format(url=title, how=f"412; ETag {version} then"))
    if name == "NotSupportedError":
        return errors.no_ranges(title)
    if name == "GenericError" and "Requested " in str(error):
        return errors.wrong_range(title, error)
    return errors.failed(title, error)


@functools.cache
def _imported() -> Any:
    try:
        import obstore
    except ImportError as error:
        raise RemoteError(
            "remote files need obstore, which is not installed: pip install 'unmix[remote]'"
        ) from error
    return obstore, os.getpid()


def _obstore() -> Any:
    """Return the library; it has threads, so it does not survive a fork."""
    library, pid = _imported()
    if pid != os.getpid():
        raise RemoteError(
            "remote files do not work in a forked process: start it by spawn or forkserver"
        )
    return library
