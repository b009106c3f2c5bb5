"""The images of many tar shards as columns, which are indexed once and kept in the cache.

The columns are memory-mapped, so the processes of a machine share them, and a name takes memory
only when it is asked for.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.sources.headers import Headers
from pipelines.sources.image_file import Header
from pipelines.sources.shard_index import ShardIndex, mixed
from pipelines.system import cache
from pipelines.system.atomic import building

log = logging.getLogger(__name__)

WORDS = "words.json"


@dataclass(frozen=True)
class Members:
    """Images inside tar files; a column has a value for each."""

    shard: NDArray[np.int32]
    """Place in the list of shards, (n,)."""
    offset: NDArray[np.int64]
    """First byte in the shard, (n,)."""
    size: NDArray[np.int64]
    """Number of bytes, (n,)."""
    text: NDArray[np.uint8]
    """The members' names, one after another."""
    ends: NDArray[np.int64]
    """Where each name ends in ``text``, (n,)."""

    def __len__(self) -> int:
        return len(self.shard)

    def name(self, place: int) -> str:
        """Return a member's name."""
        begin = int(self.ends[place - 1]) if place else 0
        return os.fsdecode(self.text[begin : int(self.ends[place])].tobytes())

    def take(self, places: NDArray[np.int64]) -> Members:
        """Return these members only, copied."""
        text, ends = joined_names([self.name(place) for place in places.tolist()])
        columns = self.shard[places], self.offset[places], self.size[places]
        return Members(*columns, text, ends)


def joined_names(names: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return names as bytes one after another, (bytes,), and where each ends, (n,)."""
    encoded = [os.fsencode(name) for name in names]
    text = np.frombuffer(b"".join(encoded), np.uint8)
    return text, np.cumsum([len(name) for name in encoded], dtype=np.int64)


@dataclass(frozen=True)
class ShardTable:
    """All that is known of the images of a pattern."""

    members: Members
    label: NDArray[np.int64]
    """Class number, or place in ``classes``; -1 without a class, (n,)."""
    classes: tuple[str, ...]
    headers: Headers
    keys: Counter[str]
    fields: Counter[str]
    no_class: tuple[int, str]
    """Of ``ShardIndex``, summed."""


def merged(parts: Sequence[ShardIndex], rules_measure: bool) -> ShardTable:
    """Return the images of shards, in order. ``rules_measure``: whether samples were measured.

    Raises:
        ValueError: classes have names in some shards and numbers in others.
    """
    label, classes = _merged_labels(parts)
    names = [joined_names(part.names) for part in parts]
    before = np.cumsum([0, *(len(text) for text, _ in names)])
    counts = [len(part.names) for part in parts]
    members = Members(
        np.repeat(np.arange(len(parts), dtype=np.int32), counts),
        np.concatenate([part.offset for part in parts]),
        np.concatenate([part.size for part in parts]),
        np.concatenate([text for text, _ in names]),
        np.concatenate([ends + start for (_, ends), start in zip(names, before, strict=False)]),
    )
    headers = _merged_headers([part.headers for part in parts], rules_measure)
    bad_classes = [part.no_class for part in parts if part.no_class[0]]
    return ShardTable(
        members,
        label,
        classes,
        headers,
        sum((part.keys for part in parts), Counter()),
        sum((part.fields for part in parts), Counter()),
        (sum(count for count, _ in bad_classes), bad_classes[0][1] if bad_classes else ""),
    )


def _merged_labels(parts: Sequence[ShardIndex]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    classes = sorted({name for part in parts for name in part.classes})
    place = {name: i for i, name in enumerate(classes)}
    found = []
    for part in parts:
        if classes and not part.classes and (part.label >= 0).any():
            raise ValueError(mixed("the shards", classes[0], int(part.label.max())))
        if part.classes:
            number = np.array([*(place[name] for name in part.classes), -1], np.int64)
            found.append(number[part.label])
        else:
            found.append(part.label)
    return np.concatenate(found), tuple(classes)


def _merged_headers(parts: Sequence[Headers], measured: bool) -> Headers:
    kinds: dict[Header, int] = {}
    numbers = []
    for part in parts:
        new = [kinds.setdefault(kind, len(kinds)) for kind in part.kinds]
        numbers.append(np.array([*new, -1], np.int16)[part.kind])
    height = np.concatenate([part.height for part in parts])
    return Headers(
        np.arange(len(height)),
        np.zeros(len(height), np.int32),
        height,
        np.concatenate([part.width for part in parts]),
        np.concatenate(numbers),
        tuple(kinds),
        np.concatenate([part.low for part in parts]),
        np.concatenate([part.high for part in parts]),
        measured,
        {name: why for part in parts for name, why in part.bad.items()},
    )


def save(folder: Path, table: ShardTable) -> None:
    """Keep a table in a folder that appears complete or not at all."""
    headers = table.headers
    columns = {**vars(table.members), "label": table.label}
    columns |= {name: getattr(headers, name) for name in ("height", "width", "kind")}
    if not (np.isnan(headers.low).all() and np.isnan(headers.high).all()):
        columns |= {"low": headers.low, "high": headers.high}
    words = {
        "classes": table.classes,
        "kinds": [dataclasses.astuple(kind) for kind in headers.kinds],
        "measured": headers.measured,
        "bad": headers.bad,
        "keys": table.keys,
        "fields": table.fields,
        "no_class": table.no_class,
    }
    with building(folder) as place:
        for name, column in columns.items():
            with (place / f"{name}.npy").open("wb") as file:
                np.save(file, column)
                file.flush()
                os.fsync(file.fileno())
        (place / WORDS).write_text(json.dumps(words), "utf-8")


def load(folder: Path) -> ShardTable | None:
    """Return the table kept in a folder, memory-mapped, or None if there is none."""
    try:
        words: dict[str, Any] = json.loads((folder / WORDS).read_text("utf-8"))
        columns = {
            path.stem: np.asarray(np.load(path, mmap_mode="r")) for path in folder.glob("*.npy")
        }
        members = Members(**{f.name: columns[f.name] for f in dataclasses.fields(Members)})
        count = len(members)
        none = np.broadcast_to(np.nan, count)
        headers = Headers(
            np.arange(count),
            np.broadcast_to(np.int32(0), count),
            columns["height"],
            columns["width"],
            columns["kind"],
            tuple(Header(*kind) for kind in words["kinds"]),
            columns.get("low", none),
            columns.get("high", none),
            bool(words["measured"]),
            dict(words["bad"]),
        )
        classes = tuple(map(str, words["classes"]))
        keys, fields = Counter(words["keys"]), Counter(words["fields"])
        kept = ShardTable(
            members, columns["label"], classes, headers, keys, fields, tuple(words["no_class"])
        )
        cache.hold(folder)
    except FileNotFoundError:
        return None
    except Exception as error:  # damaged files raise half a dozen kinds
        log.warning("%s cannot be read (%s): made again", folder, error)
        cache.remove(folder)
        return None
    return kept
