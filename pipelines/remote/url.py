"""URLs of remote files: which are meant, their patterns, and their names."""

from __future__ import annotations

import fnmatch
import re
import urllib.parse

from pipelines.remote.errors import RemoteError, without_query

KINDS = {
    "s3": "s3", "s3a": "s3", "gs": "gs", "az": "az", "abfs": "az", "abfss": "az",
    "http": "http", "https": "http", "hf": "hf",
}  # fmt: skip
"""Scheme -> kind of store."""
MOST = 100_000
"""The most names of a pattern."""


def is_remote(text: str) -> bool:
    """Whether a text is a URL of a kind that can be read: ``s3://bucket/train.beton``."""
    scheme, mark, rest = text.partition("://")
    return bool(mark and rest) and rest[0] != "/" and scheme.lower() in KINDS


def kind_of(url: str) -> str:
    """Return the kind of store: ``s3``, ``gs``, ``az``, ``http`` or ``hf``.

    Raises:
        RemoteError: no such scheme.
    """
    scheme = url.partition("://")[0].lower()
    if "://" not in url or scheme not in KINDS:
        raise RemoteError(f"{url}: remote files are {', '.join(f'{s}://' for s in KINDS)}")
    return KINDS[scheme]


def split(url: str) -> tuple[str, str]:
    """Return the URL of the folder, and the name in it, decoded and without a query."""
    base = url.partition("?")[0] if kind_of(url) == "http" else url
    folder, _, name = base.rpartition("/")
    if folder.endswith("/") or not name:
        raise RemoteError(f"{url}: no name of a file, as in {url.rstrip('/')}/train.beton")
    return folder, urllib.parse.unquote(name) if kind_of(url) == "http" else name


def title_of(url: str) -> str:
    """Return the URL as it may be shown: without a query, which may be a signature."""
    return without_query(url)


def braces(pattern: str) -> list[str]:
    """Return the texts of a pattern: ``{000..146}`` counts, ``{a,b}`` lists, several multiply.

    >>> braces("s3://b/{08..11}.tar")
    ['s3://b/08.tar', 's3://b/09.tar', 's3://b/10.tar', 's3://b/11.tar']

    Raises:
        RemoteError: a brace without an end, or more than 100,000 texts.
    """
    texts = [""]
    for part in re.split(r"(\{[^{}]*\})", pattern):
        choices = _choices(part, pattern) if part.startswith("{") else [part]
        if len(texts) * len(choices) > MOST:
            raise RemoteError(f"{pattern}: more than {MOST:,} names")
        texts = [text + choice for text in texts for choice in choices]
    if "{" in texts[0] or "}" in texts[0]:
        raise RemoteError(f"{pattern}: a brace without its other half, as in {{000..146}}")
    return texts


def _choices(part: str, pattern: str) -> list[str]:
    inner = part[1:-1]
    if found := re.fullmatch(r"(\d+)\.\.(\d+)", inner):
        low, high = int(found[1]), int(found[2])
        if not 0 <= high - low < MOST:
            raise RemoteError(f"{pattern}: {part} counts upwards, to at most {MOST:,} numbers")
        return [f"{number:0{len(found[1])}d}" for number in range(low, high + 1)]
    if "," in inner:
        return inner.split(",")
    raise RemoteError(f"{pattern}: {part} is neither {{000..146}} nor {{a,b}}")


def is_glob(url: str) -> bool:
    """Whether a URL needs a listing: it has ``*``, ``[`` or ``?``, which in http starts a query."""
    if kind_of(url) == "http":
        return bool(re.search(r"[*\[]", urllib.parse.urlsplit(url).path))
    return bool(re.search(r"[*?\[]", url))


def fixed_folder(url: str) -> str:
    """Return the part of a pattern up to the last slash before the first wildcard."""
    first = re.search(r"[*?\[]", url)
    return url[: first.start() if first else len(url)].rpartition("/")[0]


def matching(urls: list[str], pattern: str) -> list[str]:
    """Return the URLs that match, in ascending order; ``*`` stops at a slash.

    >>> matching(["s3://b/y.tar", "s3://b/x.tar", "s3://b/c/z.tar"], "s3://b/*.tar")
    ['s3://b/x.tar', 's3://b/y.tar']
    """
    depth = pattern.count("/")
    return sorted(u for u in urls if u.count("/") == depth and fnmatch.fnmatchcase(u, pattern))
