"""WebDataset shards as a ``Table``: plain tar files, read in place.

A sample is all members with the same name up to the first dot of the last path part; the rest of
the name is the member's key. One key is the image's, any ending of ``listing.extensions``, and
``cls``, if it is there, holds the class number.
"""

from __future__ import annotations

import glob
import io
import logging
import re
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.beton.format import MAX_LABEL
from pipelines.sources.folder import OnBad, report_bad
from pipelines.sources.headers import Row, describe, read_rows, tabulate
from pipelines.sources.image_file import RULES, ImageRules, decode, reason
from pipelines.sources.listing import LeftOut, extensions, is_system
from pipelines.sources.stored import InFiles, Pieces
from pipelines.sources.summary import summarize
from pipelines.sources.table import Table
from pipelines.system.progress import print_once, tracked
from pipelines.system.stored_file import LocalFile, StoredFile

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shards(InFiles):
    """Images inside tar files: shard, offset, size and member name of each row."""

    tars: tuple[StoredFile, ...]
    shard: NDArray[np.int64]  # (N,)
    offset: NDArray[np.int64]  # (N,)
    size: NDArray[np.int64]  # (N,)
    members: tuple[str, ...]
    rules: ImageRules = RULES

    def name(self, row: int) -> str:
        """Return the shard and the member."""
        return f"{self.tars[self.shard[row]].title}:{self.members[row]}"

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """The tar files."""
        return self.tars

    def pieces(self, rows: NDArray[np.int64]) -> Pieces:
        """Return where the members' bytes are."""
        encoded = np.ones(len(rows), np.bool_)
        return Pieces(self.shard[rows], self.offset[rows], self.size[rows], encoded)

    def encoded(self, row: int) -> NDArray[np.uint8]:
        """Return the member's bytes."""
        return self.stored(row)

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """Decode the member with PIL."""
        return decode(self.encoded(row).tobytes(), self.name(row), self.rules)

    def file_order(self) -> NDArray[np.int64]:
        """Return the rows in the order of the shards and their members."""
        return np.lexsort((self.offset, self.shard))

    def take(self, rows: NDArray[np.int64]) -> Shards:
        """Return these members only."""
        members = tuple(self.members[row] for row in rows)
        shard, offset, size = self.shard[rows], self.offset[rows], self.size[rows]
        return Shards(self.tars, shard, offset, size, members, self.rules)


@dataclass(slots=True)
class _Image:
    shard: int
    member: str
    offset: int
    size: int
    rows: list[Row] | str
    """Its header, or the reason why it cannot be read."""
    label: int = -1


@dataclass(slots=True)
class _Index:
    """What the shards hold, filled shard by shard."""

    image_key: str | None
    rules: ImageRules
    images: list[_Image] = field(default_factory=list)
    keys: Counter[str] = field(default_factory=Counter)
    """Members by key in lower case."""

    def is_image(self, key: str) -> bool:
        """Whether a member with this key is the sample's image."""
        wanted = self.image_key
        if wanted is None:
            return f".{key}" in extensions()
        return key == wanted or (
            key.startswith(f"{wanted}.") and f".{key.rpartition('.')[2]}" in extensions()
        )

    def other_keys(self) -> Counter[str]:
        """Return the numbers of the members that are neither an image nor a class, by key."""
        others = ((k, n) for k, n in self.keys.items() if k != "cls" and not self.is_image(k))
        return Counter({f".{key}": count for key, count in others})


def open_shards(
    pattern: str, on_bad: OnBad, image_key: str | None = None, rules: ImageRules = RULES
) -> Table:
    """Index the shards of ``pattern``, with globs and braces as ``{000..146}`` or ``{a,b}``.

    Args:
        pattern: the shards.
        on_bad: what to do with unreadable images, as in ``folder.scan``.
        image_key: key of the images, as ``input.jpg`` or ``input``; None: any image's ending.
        rules: what the images become; of several pages, the first is read.

    Raises:
        ValueError: there is no shard or no image, a sample has two, a class is no number, or
            headers cannot be read and ``on_bad`` is ``stop``.
    """
    if rules.pages == "all":
        raise ValueError("--pages all reads image files; of a member of a shard, only the first")
    paths = _expand(pattern)
    index = _Index(None if image_key is None else image_key.lower().lstrip("."), rules)
    for number, path in enumerate(tracked(paths, len(paths), "indexing shards")):
        _add_shard(number, path, index)
    images = index.images
    if not images:
        raise ValueError(_no_images(pattern, index))
    names = [f"{paths[image.shard]}:{image.member}" for image in images]
    headers = tabulate(names, [image.rows for image in images], rules)
    if on_bad != "keep":
        report_bad(headers.bad, on_bad)
    is_good = headers.height > 0
    rules = headers.ranged(rules, np.flatnonzero(is_good))
    summary = summarize(headers, rules, LeftOut(index.other_keys()), is_good)
    print_once(log, f"wds:{pattern}: {summary.text()}", logging.INFO)
    describe(headers, rules, f"wds:{pattern}")
    good = np.flatnonzero(is_good | (on_bad == "keep"))
    if not len(good):
        raise ValueError(f"wds:{pattern}: not one of {len(images)} images can be read")
    columns = np.array([(i.shard, i.offset, i.size, i.label) for i in images]).T
    members = tuple(image.member for image in images)
    files = tuple(LocalFile(path) for path in paths)
    source = Shards(files, columns[0], columns[1], columns[2], members, rules)
    label = columns[3].astype(np.int64)
    return Table(label, headers.height, headers.width, source).take(good)


def _no_images(pattern: str, index: _Index) -> str:
    wanted = "" if index.image_key is None else f" under --image-key {index.image_key}"
    found = ", ".join(f"{key} ({count:,})" for key, count in index.keys.most_common(12))
    likely = [key for key in index.keys if f".{key.rpartition('.')[2]}" in extensions()]
    hint = f": --image-key {likely[0]} reads these" if likely else ""
    return f"wds:{pattern} holds no images{wanted}; its members have the keys {found}{hint}"


def _expand(pattern: str) -> list[Path]:
    paths: list[Path] = []
    for plain in _braces(pattern):
        found = sorted(glob.glob(plain)) if glob.has_magic(plain) else [plain]
        paths.extend(Path(name).expanduser() for name in found)
    if not paths or not all(path.is_file() for path in paths):
        missing = next((path for path in paths if not path.is_file()), pattern)
        raise ValueError(f"wds:{pattern}: no shard {missing}")
    return paths


def _braces(pattern: str) -> list[str]:
    """Expand the first pair of braces, then the rest."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    if numbers := re.fullmatch(r"(\d+)\.\.(\d+)", match[1]):
        first, last = numbers.groups()
        choices = [f"{i:0{len(first)}}" for i in range(int(first), int(last) + 1)]
    else:
        choices = match[1].split(",")
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [name for choice in choices for name in _braces(head + choice + tail)]


def _add_shard(number: int, path: Path, index: _Index) -> None:
    """Append the shard's samples to the index; unreadable images get size 0 and a reason."""
    shard = _Shard(number, path, index)
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isfile() and not is_system(member.name.rpartition("/")[2]):
                    shard.add(tar, member)
            _check_end(path, tar.offset)
    except tarfile.TarError as error:
        raise ValueError(f"{path} is no plain tar file ({error}); gunzip it first?") from error
    for sample, image in shard.images.items():
        image.label = shard.labels.get(sample, -1)
        index.images.append(image)


@dataclass(slots=True)
class _Shard:
    number: int
    path: Path
    index: _Index
    labels: dict[str, int] = field(default_factory=dict)
    """Sample -> class number."""
    images: dict[str, _Image] = field(default_factory=dict)
    """Sample -> image."""

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Take a member as an image or class number of its sample, or count it."""
        folder, _, last = member.name.rpartition("/")
        stem, _, key = last.partition(".")
        sample, key = f"{folder}/{stem}", key.lower()
        self.index.keys[key] += 1
        if key != "cls" and not self.index.is_image(key):
            return
        file = tar.extractfile(member)
        assert isinstance(file, io.BufferedReader)
        if key == "cls":
            self.labels[sample] = _class_number(self.path, member.name, file.read())
            return
        if sample in self.images:
            raise ValueError(
                f"{self.path}: a sample has two images, {self.images[sample].member} and "
                f"{member.name}: choose one with --image-key {key}"
            )
        place = (member.name, member.offset_data, member.size)
        self.images[sample] = _Image(self.number, *place, _measure(file, member.size, self.index))


def _check_end(path: Path, end: int) -> None:
    """Check for the zeros that end a complete tar file, which ``tarfile`` does not require."""
    with path.open("rb") as file:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise ValueError(f"{path} is cut off at byte {end}")


def _class_number(path: Path, member: str, data: bytes) -> int:
    try:
        number = int(data[:20])
    except ValueError:
        number = MAX_LABEL + 1
    if not -1 <= number <= MAX_LABEL:
        raise ValueError(f"{path}:{member} is no class number: {data[:40]!r}")
    return number


def _measure(file: io.BufferedReader, size: int, index: _Index) -> list[Row] | str:
    try:
        return read_rows(file, index.rules)
    except Exception as error:  # Pillow's plugins raise anything from SyntaxError to struct.error
        return reason(error, size)
