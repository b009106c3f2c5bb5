"""The words of ``--data``: names, prefixes, and sums such as ``folder:A + B.beton``.

Nothing is opened here; ``pipelines.datasets`` opens what the words name.
"""

from __future__ import annotations

import difflib
import re
import string
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.remote.url import KINDS, is_remote, title_of

NAMED = ("photos", "cifar10", "cifar100", "stl10", "tiny-imagenet")
"""Data sets with a name."""
PREFIXES = ("folder:", "list:", "wds:", "parquet:", "hf:")
"""Words before a place or a pattern, which say what is there."""
PLUS = " + "
REMOTE_FORMS = (
    "a remote file must be a .beton, as s3://bucket/train.beton, or tar shards, as "
    "wds:s3://bucket/train-{000..146}.tar; tools/write_ffcv.py SOURCE s3://... writes one"
)
"""What is read of a store."""
STRAY = string.whitespace + "'\"\u2018\u2019\u201c\u201d"
"""What stands around a place by mistake: spaces, and quotes that the shell has not removed."""
URL = re.compile(rf"({'|'.join(KINDS)}|file)(:/*|//+)([^/:].*)", re.IGNORECASE)
"""What was meant as a URL: scheme, mark and place, whatever slashes are too few or too many."""


def split_sum(spec: str) -> tuple[str, ...]:
    """Return the data sets that a sum joins; one if it is no sum.

    A plus sign between spaces joins two data sets only if what follows is one by its form, so that
    paths with plus signs keep their meaning.

    >>> split_sum("folder:cats + dogs.beton + cifar10")
    ('folder:cats', 'dogs.beton', 'cifar10')
    >>> split_sum("folder:cats + dogs")
    ('folder:cats + dogs',)
    """
    parts: list[str] = []
    for piece in spec.split(PLUS):
        if parts and not (is_spec(parts[-1]) and is_spec(piece)):
            parts[-1] += PLUS + piece
        else:
            parts.append(piece)
    return tuple(parts)


def join_sum(specs: str | Iterable[str]) -> str:
    """Return one data set as it is, and several as their sum.

    >>> join_sum(["folder:cats", "dogs.beton"])
    'folder:cats + dogs.beton'
    """
    return specs if isinstance(specs, str) else PLUS.join(specs)


def is_spec(text: str) -> bool:
    """Whether the text has the form of one data set, which need not exist."""
    named = text in NAMED or text.startswith(PREFIXES) or text.endswith(".beton")
    return named or is_remote(text)


def check_prefixed(prefix: str, spec: str) -> None:
    """Refuse a prefix that nothing follows, or a URL after a prefix that reads local files only.

    Raises:
        ValueError: the text names what is read of a store.
    """
    place = spec.removeprefix(prefix)
    if not place.strip(STRAY):
        raise ValueError(f"nothing follows {prefix} (is a variable of the shell unset?)")
    if is_remote(place) and prefix != "wds:":
        raise ValueError(f"{prefix} reads no store: {REMOTE_FORMS}")


def nearest(text: str) -> str:
    """Return a question with the name that a text resembles; empty if there is none.

    >>> nearest("cifar01")
    ": did you mean 'cifar10'?"
    """
    near = difflib.get_close_matches(text.lower(), [*NAMED, "folder:"], n=1)
    return f": did you mean {near[0]!r}?" if near else ""


def meant(text: str) -> str | None:
    """Return the data set that a mistyped text was meant to be; None without a guess.

    Slashes of a URL, ``//`` after a prefix, capital letters of a prefix, spaces and quotes around a
    place, and ``file:`` are understood.

    >>> meant("s3:/bucket/train.beton"), meant("'Folder: /data'"), meant("wds://shards/{0..3}.tar")
    ('s3://bucket/train.beton', 'folder:/data', 'wds:shards/{0..3}.tar')
    """
    bare = text.strip(STRAY)
    url = _as_url(bare)
    prefix = "" if url else next((p for p in PREFIXES if bare.lower().startswith(p)), "")
    place = bare[len(prefix) :].strip(STRAY)
    url = _as_url(place)
    if url is not None:
        place = url
    elif prefix and re.match(r"//[^/]", place):
        place = place[2:]
    if url is not None and not prefix and not is_remote(url) and not url.endswith(".beton"):
        prefix = "folder:"
    guess = prefix + place
    return guess if guess != text and place and is_spec(guess) else None


def _as_url(text: str) -> str | None:
    """Return the URL that a text resembles, or the path of ``file:``; None for other texts."""
    found = URL.fullmatch(text)
    if found is None:
        return None
    scheme, mark, place = found[1].lower(), found[2], found[3]
    if scheme == "file":
        return f"/{place}" if "/" in mark else place
    return None if (scheme, mark) == ("hf", ":") else f"{scheme}://{place}"


@contextmanager
def suggesting(spec: str) -> Iterator[None]:
    """Turn a refusal of a mistyped data set into one that names what was probably meant.

    Raises:
        ValueError: as the code inside, in other words if there is a guess.
    """
    try:
        yield
    except ValueError as error:
        guess = meant(spec)
        if guess is None:
            raise
        raise ValueError(f"no data set {spec!r}: did you mean {guess!r}?") from error


def short_name(spec: str) -> str:
    """Return a name for folders and captions: the last parts of the paths.

    >>> short_name("folder:/data/cats + dogs/train.beton")
    'cats+train'
    >>> short_name("train-{0..3}.beton")
    'train-0..3'
    >>> short_name("https://host/train.beton?signature=1")
    'train'
    """
    shown = (title_of(one) for one in split_sum(spec))  # a query may be a signature
    bare = (one.partition(":")[2] if one.startswith(PREFIXES) else one for one in shown)
    name = "+".join(Path(one.removesuffix(".beton")).name for one in bare)
    return re.sub(r"[][*?{}]", "", name)
