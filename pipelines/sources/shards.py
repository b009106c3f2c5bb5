"""WebDataset shards as a ``Table``: plain tar files, read in place.

A sample is all members with the same name up to the first dot of the last path part: its image
(``jpg jpeg png webp``) and, if it has one, its class number (``cls``).
"""

from __future__ import annotations

import glob
import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.beton.format import MAX_LABEL
from pipelines.sources.folder import OnBad, report_bad
from pipelines.sources.image_file import RULES, ImageRules, decode, read_header, reason
from pipelines.sources.table import Table
from pipelines.system import page_cache
from pipelines.system.progress import tracked

IMAGE_KEYS = frozenset(("jpg", "jpeg", "png", "webp"))


@dataclass(frozen=True)
class Shards:
    """Images inside tar files: shard, offset, size and member name of each row."""

    paths: tuple[Path, ...]
    shard: NDArray[np.int64]  # (N,)
    offset: NDArray[np.int64]  # (N,)
    size: NDArray[np.int64]  # (N,)
    members: tuple[str, ...]
    rules: ImageRules = RULES

    def name(self, row: int) -> str:
        """Return the shard and the member."""
        return f"{self.paths[self.shard[row]]}:{self.members[row]}"

    def encoded(self, row: int) -> NDArray[np.uint8]:
        """Return the member's bytes."""
        path, offset = self.paths[self.shard[row]], int(self.offset[row])
        return np.fromfile(path, np.uint8, int(self.size[row]), offset=offset)

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """Decode the member with PIL."""
        return decode(self.encoded(row).tobytes(), self.name(row), self.rules)

    def file_order(self) -> NDArray[np.int64]:
        """Return the rows in the order of the shards and their members."""
        return np.arange(len(self.members))

    def take(self, rows: NDArray[np.int64]) -> Shards:
        """Return these members only."""
        members = tuple(self.members[row] for row in rows)
        shard, offset, size = self.shard[rows], self.offset[rows], self.size[rows]
        return Shards(self.paths, shard, offset, size, members, self.rules)

    def will_need(self, rows: NDArray[np.int64]) -> None:
        """Request the members' bytes."""
        for path, ranges in self._ranges(rows):
            page_cache.will_need(path, ranges)

    def forget(self, rows: NDArray[np.int64]) -> None:
        """Drop the members' pages from the page cache."""
        for path, ranges in self._ranges(rows):
            page_cache.forget(path, ranges)

    def _ranges(self, rows: NDArray[np.int64]) -> Iterator[tuple[Path, page_cache.Ranges]]:
        for shard in np.unique(self.shard[rows]):
            here = rows[self.shard[rows] == shard]
            yield self.paths[shard], page_cache.joined(self.offset[here], self.size[here])


@dataclass(slots=True)
class _Row:
    shard: int
    member: str
    offset: int
    size: int
    height: int
    width: int
    label: int = -1


def open_shards(pattern: str, on_bad: OnBad) -> Table:
    """Index the shards of ``pattern``, with globs and braces as ``{000..146}`` or ``{a,b}``.

    Raises:
        ValueError: there is no shard or no image, a class is no number, or headers cannot be read
            and ``on_bad`` is ``stop``.
    """
    paths = _expand(pattern)
    rows: list[_Row] = []
    bad: dict[str, str] = {}
    for number, path in enumerate(tracked(paths, len(paths), "indexing shards")):
        _index(number, path, rows, bad)
    if on_bad != "keep":
        report_bad(bad, on_bad)
        rows = [row for row in rows if row.height > 0]
    if not rows:
        raise ValueError(f"wds:{pattern} holds no images ({' '.join(sorted(IMAGE_KEYS))})")
    columns = np.array([(r.shard, r.offset, r.size, r.label, r.height, r.width) for r in rows]).T
    members = tuple(row.member for row in rows)
    source = Shards(tuple(paths), columns[0], columns[1], columns[2], members)
    height, width = columns[4].astype(np.int32), columns[5].astype(np.int32)
    return Table(columns[3].astype(np.int64), height, width, source)


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


def _index(number: int, path: Path, rows: list[_Row], bad: dict[str, str]) -> None:
    """Append the shard's samples to ``rows``; unreadable ones get size 0 and are in ``bad``."""
    try:
        with tarfile.open(path, "r:") as tar:
            labels: dict[str, int] = {}
            found: dict[str, _Row] = {}
            for member in tar:
                folder, _, last = member.name.rpartition("/")
                stem, _, key = last.partition(".")
                sample, key = f"{folder}/{stem}", key.lower()
                if not member.isfile() or key not in IMAGE_KEYS | {"cls"}:
                    continue
                file = tar.extractfile(member)
                assert isinstance(file, io.BufferedReader)
                if key == "cls":
                    labels[sample] = _class_number(path, member.name, file.read())
                else:
                    size = _measure(file, member.size, f"{path}:{member.name}", bad)
                    place = member.offset_data
                    found[sample] = _Row(number, member.name, place, member.size, *size)
            _check_end(path, tar.offset)
    except tarfile.TarError as error:
        raise ValueError(f"{path} is no plain tar file ({error}); gunzip it first?") from error
    for sample, row in found.items():
        row.label = labels.get(sample, -1)
        rows.append(row)


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


def _measure(file: io.BufferedReader, size: int, name: str, bad: dict[str, str]) -> tuple[int, int]:
    try:
        header = read_header(file)
        return header.height, header.width
    except Exception as error:  # Pillow's plugins raise anything from SyntaxError to struct.error
        bad[name] = reason(error, size)
        return 0, 0
