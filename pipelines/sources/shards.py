"""WebDataset shards as a ``Table``: plain tar files, read in place.

A sample is all members with the same name up to the first dot of the last path part; the rest of
the name is the member's key. One key is the image's, any ending of ``listing.extensions``, and
``cls`` or a field of ``json``, if one is there, holds the class.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.remote.file import RemoteOptions
from pipelines.sources.folder import OnBad, report_unfit
from pipelines.sources.headers import Headers, describe, wrong_bands
from pipelines.sources.image_file import RULES, ImageRules, decode
from pipelines.sources.listing import LeftOut, extensions
from pipelines.sources.shard_files import find_shards, state_of
from pipelines.sources.shard_index import ShardIndex, index_shard
from pipelines.sources.shard_members import MemberKeys
from pipelines.sources.shard_table import Members, ShardTable, load, merged, save
from pipelines.sources.stored import InFiles, Pieces, Rows
from pipelines.sources.summary import summarize
from pipelines.sources.table import Table
from pipelines.system import cache
from pipelines.system.progress import print_once, tracked
from pipelines.system.stored_file import StoredFile
from pipelines.system.workers import main_hidden, worker_pool

log = logging.getLogger(__name__)

VERSION = 1
"""Of the cached tables; those of another version are made again."""
MANY_BYTES = 1 << 28
"""Shards of more bytes than this, together, are indexed by worker processes."""


@dataclass(frozen=True)
class Shards(InFiles):
    """Images inside tar files."""

    tars: tuple[StoredFile, ...]
    members: Members = field(repr=False)
    rules: ImageRules = RULES
    number: NDArray[np.int64] | None = field(default=None, repr=False)
    """The rows' places in ``members``, (N,), where they are not 0 to N - 1."""
    state: str = ""
    """Digest of the tar files' names, sizes and times."""
    are_jpegs: bool = True
    """Whether most of the images are JPEGs."""

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """The tar files."""
        return self.tars

    def name(self, row: int) -> str:
        """Return the shard and the member."""
        place = int(self._places(np.array([row]))[0])
        return f"{self.tars[self.members.shard[place]].title}:{self.members.name(place)}"

    def pieces(self, rows: Rows) -> Pieces:
        """Return where the members' bytes are."""
        places, found = self._places(rows), self.members
        encoded = np.ones(len(rows), np.bool_)
        shard = found.shard[places].astype(np.int64)
        return Pieces(shard, found.offset[places], found.size[places], encoded)

    def encoded(self, row: int) -> NDArray[np.uint8]:
        """Return the member's bytes."""
        return self.stored(row)

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """Decode the member with PIL."""
        return decode(self.encoded(row).tobytes(), self.name(row), self.rules)

    def file_order(self) -> Rows:
        """Return the rows in the order of the shards and their members."""
        if self.number is None:
            return np.arange(len(self.members))
        return np.argsort(self.number, kind="stable")

    def take(self, rows: Rows) -> Shards:
        """Return these members only."""
        return dataclasses.replace(self, number=self._places(rows))

    def identity(self) -> bytes:
        """Return a digest of the rows and of the state of the tar files."""
        digest = hashlib.sha256(self.state.encode())
        if self.number is not None:
            digest.update(np.ascontiguousarray(self.number).data)
        return digest.digest()

    def _places(self, rows: Rows) -> Rows:
        return rows if self.number is None else self.number[rows]

    def __reduce__(self) -> tuple[Any, ...]:
        """Send a worker process the members and shards of the rows only, and no memory map."""
        if self.number is None:
            return Shards, (self.tars, self.members, self.rules, None, self.state, self.are_jpegs)
        kept = self.members.take(self.number)
        used, shard = np.unique(kept.shard, return_inverse=True)
        kept = dataclasses.replace(kept, shard=shard.astype(np.int32))
        tars = tuple(self.tars[number] for number in used)
        return Shards, (tars, kept, self.rules, None, "", self.are_jpegs)


def open_shards(
    pattern: str,
    on_bad: OnBad,
    image_key: str | None = None,
    rules: ImageRules = RULES,
    label_key: str | None = None,
    remote: RemoteOptions | None = None,
) -> Table:
    """Open the shards of ``pattern``, with globs and braces as ``{000..146}`` or ``{a,b}``.

    The first time they are read once, member by member, which also fetches those of a store; the
    result is kept in the cache until a shard's name, size or time changes.

    Args:
        pattern: the shards.
        on_bad: what to do with unreadable images, as in ``folder.scan``.
        image_key: key of the images, as ``input.jpg`` or ``input``; None: any image's ending.
        rules: what the images become; of several pages, the first is read.
        label_key: key of the member, or field of the ``.json``, that holds the class; None:
            ``cls``, then one of ``shard_members.LABEL_FIELDS``. Names become classes.
        remote: how shards of a store are fetched and kept; None: below the cache.

    Raises:
        ValueError: there is no shard or no image, a shard is compressed or cut off, a sample has
            two images, a class is none, or images cannot be used and ``on_bad`` is ``stop``.
    """
    if rules.pages == "all":
        raise ValueError("--pages all reads image files; of a member of a shard, only the first")
    files, keys = find_shards(pattern, remote), MemberKeys(image_key, label_key)
    state, where = state_of(files), f"wds:{pattern}"
    table = _table(where, files, keys, rules, state)
    is_good, rules = _usable(where, files, table, on_bad, rules)
    keys_out = _other_keys(table.keys, keys)
    summary = summarize(table.headers, rules, LeftOut(keys_out), is_good)
    print_once(log, f"{where}: {summary.text()}", logging.INFO)
    describe(table.headers, rules, where)
    if table.no_class[0]:
        count, first = table.no_class
        print_once(log, f"{where}: {count:,} .json without a class, the first: {first}")
    good = np.flatnonzero(is_good | (on_bad == "keep"))
    if not len(good):
        raise ValueError(f"{where}: not one of {len(is_good)} images can be read")
    headers, jpegs = table.headers, _are_jpegs(table.headers)
    source = Shards(files, table.members, rules, None, state, jpegs)
    found = Table(np.array(table.label), headers.height, headers.width, source, table.classes)
    return found if len(good) == len(is_good) else found.take(good)


def _are_jpegs(headers: Headers) -> bool:
    numbers = [number for number, kind in enumerate(headers.kinds) if kind.format == "JPEG"]
    return 2 * int(np.isin(headers.kind, numbers).sum()) >= len(headers.kind)


def _usable(
    where: str, files: Sequence[StoredFile], table: ShardTable, on_bad: OnBad, rules: ImageRules
) -> tuple[NDArray[np.bool_], ImageRules]:
    """Return which images can be used, (n,), and the rules with the range of their samples."""
    headers, members = table.headers, table.members

    def name(place: int) -> str:
        return f"{files[members.shard[place]].title}:{members.name(place)}"

    other = wrong_bands(headers, rules)
    if on_bad != "keep":
        wrong = {name(place): why for place, why in other.items()}
        report_unfit(where, len(members), len(members), headers.bad, wrong, on_bad)
    is_good = headers.height > 0
    is_good[list(other)] = False
    return is_good, headers.ranged(rules, np.flatnonzero(is_good))


def _table(
    where: str, files: tuple[StoredFile, ...], keys: MemberKeys, rules: ImageRules, state: str
) -> ShardTable:
    """Return the table of the shards, from the cache if it is there."""
    place = _digest(os.path.abspath(where.removeprefix("wds:")))
    read = repr((VERSION, keys, rules.max_pixels, rules.is_color))
    with_range, without = (_digest(f"{read} {measured}") for measured in (True, False))
    folder = cache.cache_root() / "tables" / f"wds-{place}-{state[:8]}-"
    known = load(Path(f"{folder}{with_range}"))
    if known is None and rules.depth_range is not None:
        known = load(Path(f"{folder}{without}"))
    if known is not None:
        return known
    made = merged(list(_indexed(files, keys, rules)), rules.depth_range is None)
    if not len(made.members):
        raise ValueError(_no_images(where, made.keys, keys))
    if keys.label is not None and not (made.label >= 0).any():
        raise ValueError(_no_labels(where, made, keys.label))
    folder = Path(f"{folder}{with_range if made.headers.measured else without}")
    try:
        with cache.writing():
            save(folder, made)
        cache.remove_outdated(folder)
    except ValueError as error:
        log.warning("%s; the shards are read again next time", error)
        return made
    return load(folder) or made  # memory-mapped, and so shared


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:8]


def _indexed(
    files: Sequence[StoredFile], keys: MemberKeys, rules: ImageRules
) -> Iterator[ShardIndex]:
    """Index the shards in order: in this process, or in worker processes if they are large."""
    title, count = "indexing shards", len(files)
    if count == 1 or sum(file.path.stat().st_size for file in files) < MANY_BYTES:
        yield from tracked((index_shard(file, keys, rules) for file in files), count, title)
        return
    pool = worker_pool()
    try:
        with main_hidden():
            found = pool.map(index_shard, files, repeat(keys), repeat(rules))
        yield from tracked(found, count, title)
    except BrokenProcessPool as error:
        raise ValueError("a process that indexed shards died, possibly for lack of memory") from (
            error
        )
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _other_keys(counts: Counter[str], keys: MemberKeys) -> Counter[str]:
    """Return the numbers of the members that are neither an image nor a class, by key."""
    others = ((k, n) for k, n in counts.items() if not (keys.is_label(k) or keys.is_image(k)))
    return Counter({f".{key}": count for key, count in others})


def _no_images(where: str, counts: Counter[str], keys: MemberKeys) -> str:
    wanted = "" if keys.image is None else f" under --image-key {keys.image}"
    likely = [key for key in counts if f".{key.rpartition('.')[2]}" in extensions()]
    hint = f": --image-key {likely[0]} reads these" if likely else ""
    return f"{where} holds no images{wanted}; its members have the keys {_most(counts)}{hint}"


def _no_labels(where: str, table: ShardTable, key: str) -> str:
    fields = f", and their .json the fields {_most(table.fields)}" if table.fields else ""
    return (
        f"{where} holds no classes under --label-key {key}; its members have the keys "
        f"{_most(table.keys)}{fields}"
    )


def _most(counts: Counter[str]) -> str:
    return ", ".join(f"{key} ({count:,})" for key, count in counts.most_common(12))
