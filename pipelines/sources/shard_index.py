"""What one tar shard holds: the place, size, header and class of each image, read in one pass."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.remote.errors import RemoteError
from pipelines.sources.headers import Headers, Row, read_rows, tabulate
from pipelines.sources.image_file import ImageRules, reason
from pipelines.sources.shard_members import Label, MemberKeys, NoClass, read_label, split_name
from pipelines.system.stored_file import StoredFile
from pipelines.system.stored_reader import finish, open_reader

COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\x00": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
    b"\x04\x22\x4d\x18": ("lz4", "unlz4"),
}
"""First bytes of a file -> how it is compressed, and the command that reverses it."""
PADDING = 1 << 16
"""Bytes after the end of a tar file that are looked at: zeros, if no other file follows."""


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """The n images of a shard, in the order of their bytes."""

    offset: NDArray[np.int64]
    """First byte, (n,)."""
    size: NDArray[np.int64]
    """Number of bytes, (n,)."""
    label: NDArray[np.int64]
    """Class number, or place in ``classes``; -1 without a class, (n,)."""
    classes: tuple[str, ...]
    """Names of the classes, sorted; empty if they are numbers."""
    names: tuple[str, ...]
    """Members."""
    headers: Headers
    keys: Counter[str]
    """Members by key; links and other things that are no files have a space in theirs."""
    fields: Counter[str]
    """Samples by field of their ``.json``."""
    no_class: tuple[int, str]
    """Number of ``.json`` members whose class is none, and a sentence about the first."""


@dataclass(slots=True)
class _Image:
    member: str
    offset: int
    size: int
    rows: list[Row] | str
    """Its header, or the reason why it cannot be read."""


@dataclass(slots=True)
class _Pass:
    """A pass over a shard."""

    title: str
    keys: MemberKeys
    rules: ImageRules
    counts: Counter[str] = field(default_factory=Counter)
    fields: Counter[str] = field(default_factory=Counter)
    images: dict[str, _Image] = field(default_factory=dict)
    """Sample -> image."""
    labels: dict[str, tuple[int, Label]] = field(default_factory=dict)
    """Sample -> rank of the member and class."""
    no_class: list[str] = field(default_factory=list)

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Take a member as the image or the class of its sample, or count it."""
        sample, key = split_name(member.name)
        if member.isdir() or not sample:
            return
        if not member.isfile():
            self.counts[f"{key} (no file, but a link)"] += 1
            return
        self.counts[key] += 1
        file = None
        if self.keys.is_label(key):
            file = tar.extractfile(member)
            assert file is not None
            self._add_label(sample, key, member.name, file.read())
        if self.keys.is_image(key):
            self._check_image(sample, key, member)
            file = tar.extractfile(member)
            assert isinstance(file, io.BufferedReader)
            rows = _measure(file, member.size, self.rules)
            self.images[sample] = _Image(member.name, member.offset_data, member.size, rows)

    def _check_image(self, sample: str, key: str, member: tarfile.TarInfo) -> None:
        if member.sparse is not None:
            raise ValueError(
                f"{self.title}:{member.name} is stored with holes, so its bytes are not in one "
                "piece: pack the shard again without tar's --sparse"
            )
        before = self.images.get(sample)
        if before is not None and before.member == member.name:
            raise ValueError(f"{self.title} holds {member.name} twice: pack the shard again")
        if before is not None:
            raise ValueError(
                f"{self.title}: a sample has two images, {before.member} and {member.name}: "
                f"choose one with --image-key {key}"
            )

    def _add_label(self, sample: str, key: str, member: str, data: bytes) -> None:
        rank = self.keys.rank(key)
        if rank >= self.labels.get(sample, (2, -1))[0]:
            return
        try:
            label = read_label(key, data, self.keys, self.fields)
        except NoClass as error:
            if not rank or self.keys.label is not None:
                raise ValueError(f"{self.title}:{member} {error}") from error
            self.no_class.append(f"{self.title}:{member} {error}")
        else:
            if label is not None:
                self.labels[sample] = rank, label

    def index(self) -> ShardIndex:
        """Return what was found."""
        images = self.images.values()
        labels = [self.labels.get(sample, (0, -1))[1] for sample in self.images]
        number, classes = numbered(labels, self.title)
        return ShardIndex(
            np.array([image.offset for image in images], np.int64),
            np.array([image.size for image in images], np.int64),
            number,
            classes,
            tuple(image.member for image in images),
            tabulate(
                [f"{self.title}:{image.member}" for image in images],
                [image.rows for image in images],
                self.rules,
            ),
            self.counts,
            self.fields,
            (len(self.no_class), next(iter(self.no_class), "")),
        )


def index_shard(file: StoredFile, keys: MemberKeys, rules: ImageRules) -> ShardIndex:
    """Read the members of a shard once, in sequence.

    Raises:
        ValueError: it is compressed, cut off or no tar file; a sample has two images, or a class
            is none.
    """
    found = _Pass(file.title, keys, rules)
    with open_reader(file) as reader:
        _refuse_compressed(file.title, reader.read(8))
        reader.seek(0)
        try:
            with tarfile.open(fileobj=reader, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    found.add(tar, member)
                    vars(tar)["members"].clear()  # it would keep a kilobyte for each
                _check_end(file.title, reader, tar.offset)
                finish(reader)
        except tarfile.TarError as error:
            raise ValueError(f"{file.title} is no tar file, or cut off ({error})") from error
    return found.index()


def numbered(labels: Iterable[Label], where: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the classes of samples as numbers, and their names in order if they have names.

    Raises:
        ValueError: some have names and others have numbers.
    """
    labels = list(labels)
    names = sorted({label for label in labels if isinstance(label, str)})
    numbers = [label for label in labels if isinstance(label, int) and label >= 0]
    if names and numbers:
        raise ValueError(mixed(where, names[0], numbers[0]))
    place = {name: i for i, name in enumerate(names)}
    found = [place[label] if isinstance(label, str) else label for label in labels]
    return np.array(found, np.int64), tuple(names)


def mixed(where: str, name: str, number: int) -> str:
    """Return the refusal of classes with names in some samples, and with numbers in others."""
    return (
        f"{where} has classes with names ({name!r}) and with numbers ({number}): "
        "--label-key names the member or the field of .json that all samples have"
    )


def _refuse_compressed(title: str, begin: bytes) -> None:
    if not begin:
        raise ValueError(f"{title} is an empty file")
    for magic, (how, command) in COMPRESSED.items():
        if begin.startswith(magic):
            raise ValueError(
                f"{title} is compressed with {how}, and rows are read in any order, which only "
                f"plain tar files allow: {command} it (JPEGs become no larger), and name the result"
            )


def _check_end(title: str, reader: io.BufferedReader, end: int) -> None:
    """Check for the zeros that end a complete tar file, which ``tarfile`` does not require."""
    reader.seek(end)
    rest = reader.read(PADDING)
    if rest[: tarfile.BLOCKSIZE] != bytes(tarfile.BLOCKSIZE):
        raise ValueError(f"{title} is cut off at byte {end}")
    if rest.strip(b"\0"):
        raise ValueError(
            f"{title} goes on after its end at byte {end}, as tar files joined by cat do: join "
            "them by tar --concatenate, or name each"
        )


def _measure(file: io.BufferedReader, size: int, rules: ImageRules) -> list[Row] | str:
    try:
        return read_rows(file, rules)
    except RemoteError:  # the store failed, not the image
        raise
    except Exception as error:  # Pillow's plugins raise anything from SyntaxError to struct.error
        return reason(error, size)
