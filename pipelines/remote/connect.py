"""Connections to stores: what obstore is asked with, and its errors in words.

The only file that imports obstore (extra ``remote``), which speaks S3, Google Cloud Storage,
Azure and HTTP, retries what can be retried, and resumes a broken reply in the middle.
"""

from __future__ import annotations

import datetime
import functools
import importlib.util
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.remote import errors, hub
from pipelines.remote.errors import RemoteError
from pipelines.remote.url import kind_of, split, title_of


@dataclass(frozen=True)
class Retry:
    """How long a failing request is repeated: 5xx, 429, resets, silence, short replies."""

    attempts: int = 100
    first_wait: float = 0.1
    """Seconds before the second attempt; each further wait is about half as long again."""
    longest_wait: float = 15.0
    silence: float = 30.0
    """Seconds without a byte after which a reply counts as lost."""
    total: float = 180.0
    """Seconds from the first attempt after which none follows."""


RETRY = Retry()
OPENING = 30.0
"""Seconds in which a store must answer for the first time: a misspelled host is soon named."""
GROWTH = 4.0
"""A wait is drawn below this many times the one before: 1.5 times as long, in the middle."""


def opening(retry: Retry) -> Retry:
    """Return how a first request is repeated, before anything depends on it."""
    return replace(retry, total=min(retry.total, OPENING))


def place(url: str, retry: Retry, stale: Any = None) -> tuple[Any, str]:
    """Return the store of a URL and the path in it.

    ``stale`` is a store that denied access: the Hub is asked for another, unless it was meanwhile.
    """
    library()
    pid = os.getpid()
    kind = kind_of(url)
    if kind == "hf":
        for _ in range(2):
            at, headers = _located(url, pid)
            store = store_of(at, retry, pid, tuple(headers.items()))
            if store is not stale:
                break
            _located.cache_clear()
        return store, ""
    folder, name = split(url)
    if kind == "http" and ("?" in url or "%" in url):
        return store_of(url, retry, pid), ""
    return store_of(folder, retry, pid), name


@functools.lru_cache(4096)
def _located(url: str, pid: int) -> tuple[str, dict[str, str]]:
    return hub.locate(url)


@functools.lru_cache(256)
def store_of(url: str, retry: Retry, pid: int, headers: tuple[tuple[str, str], ...] = ()) -> Any:
    """Return the store of a folder, or of a whole URL in http; one set of connections each."""
    library()
    from obstore.store import HTTPStore, from_url

    def seconds(value: float) -> datetime.timedelta:
        return datetime.timedelta(seconds=value)

    client: Any = {
        "read_timeout": seconds(retry.silence),
        "timeout": seconds(max(600.0, retry.silence)),  # a slow reply is no lost one
        "allow_http": _allows_http(url.lower()),
    }
    if headers:
        client["default_headers"] = dict(headers)
    again: Any = {
        "max_retries": retry.attempts,
        "retry_timeout": seconds(retry.total),
        "backoff": {
            "init_backoff": seconds(retry.first_wait),
            "max_backoff": seconds(retry.longest_wait),
            "base": GROWTH,
        },
    }
    try:
        if kind_of(url) == "http":
            return HTTPStore.from_url(url, client_options=client, retry_config=again)
        provider = _aws_profile() if kind_of(url) == "s3" else None
        more: Any = {"credential_provider": provider} if provider else {}
        return from_url(url, client_options=client, retry_config=again, **more)
    except Exception as error:
        raise RemoteError(f"{title_of(url)}: {errors.reason(error)}") from error


ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "az": ("AZURE_STORAGE_ENDPOINT",),
}
"""Variables that name another server than the usual one, by kind of store."""


def endpoint_of(url: str) -> str:
    """Return the server that a variable names for this kind of store; empty: the usual one."""
    names = ENDPOINTS.get(kind_of(url), ())
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


def _allows_http(url: str) -> bool:
    """Whether unencrypted http is asked for, by the URL or by a variable that names a server."""
    named = endpoint_of(url)
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


def in_words(error: Exception, url: str, version: str) -> Exception:
    """Return what to raise: the library's errors in words, others unchanged."""
    name, title, kind = type(error).__name__, title_of(url), kind_of(url)
    if isinstance(error, RemoteError):
        return error
    if name == "FileNotFoundError":
        return errors.not_found(title, kind, errors.is_about_bucket(error))
    if name in ("PermissionDeniedError", "UnauthenticatedError"):
        return errors.no_access(title, kind, error)
    if name == "PreconditionError":
        return RemoteError(errors.CHANGED.format(url=title, how=f"412; ETag {version} then"))
    if name == "NotSupportedError":
        return errors.no_ranges(title)
    if name == "GenericError" and "Requested " in str(error):
        return errors.wrong_range(title, error)
    if name == "GenericError" and any(part in str(error) for part in errors.METADATA):
        return errors.no_credentials(title, kind)
    return errors.failed(title, error, fetching=bool(version))


@functools.cache
def _imported() -> Any:
    try:
        import obstore
    except ImportError as error:
        raise RemoteError(
            "remote files need obstore, which is not installed: pip install 'unmix[remote]'"
        ) from error
    return obstore, os.getpid()


def library() -> Any:
    """Return the library; it has threads, so it does not survive a fork."""
    library, pid = _imported()
    if pid != os.getpid():
        raise RemoteError(
            "remote files do not work in a forked process: start it by spawn or forkserver"
        )
    return library
