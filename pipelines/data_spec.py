"""The words of ``--data``: names, prefixes, and sums such as ``folder:A + B.beton``.

Nothing is opened here; ``pipelines.datasets`` opens what the words name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

from pipelines.remote.url import is_remote, title_of

NAMED = ("photos", "cifar10", "cifar100", "stl10", "tiny-imagenet")
"""Data sets with a name."""
PREFIXES = ("folder:", "list:", "wds:", "parquet:", "hf:")
"""Words before a place or a pattern, which say what is there."""
PLUS = " + "


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


def nearest(text: str) -> str:
    """Return a question with the name that a text resembles; empty if there is none.

    >>> nearest("cifar01")
    ": did you mean 'cifar10'?"
    """
    near = difflib.get_close_matches(text, [*NAMED, "folder:"], n=1)
    return f": did you mean {near[0]!r}?" if near else ""


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
