"""CIFAR-10, CIFAR-100, STL-10 and Tiny ImageNet from the files their authors published."""

from __future__ import annotations

import logging
import shutil
import socket
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.sources.arrays import Arrays
from pipelines.sources.files import Files
from pipelines.sources.folder import OnBad, scan
from pipelines.sources.image_file import RULES, ImageRules
from pipelines.sources.listing import list_images
from pipelines.sources.table import Table
from pipelines.system.atomic import building
from pipelines.system.cache import cache_root

log = logging.getLogger(__name__)

Split = Literal["train", "val"]
DOWNLOAD_TIMEOUT = 20.0
"""Seconds without an answer after which a download is given up."""
TINY = "tiny-imagenet-200"
STL10_CLASSES = [
    "airplane",
    "bird",
    "car",
    "cat",
    "deer",
    "dog",
    "horse",
    "monkey",
    "ship",
    "truck",
]


class NotDownloaded(ValueError):
    """A published data set is missing and must not be downloaded; the text has the fix."""


@dataclass(frozen=True)
class Published:
    """Size of the training split of a published data set, known before the download."""

    images: int
    side: int
    classes: int
    labelled: int


PUBLISHED = {
    "cifar10": Published(50_000, 32, 10, 50_000),
    "cifar100": Published(50_000, 32, 100, 50_000),
    "stl10": Published(105_000, 96, 10, 5_000),
    "tiny-imagenet": Published(100_000, 64, 200, 100_000),
}


def stand_in(name: str, channels: int = 3) -> Table:
    """Return a table with the rows of a published training split and blank images."""
    known = PUBLISHED[name]
    label = np.arange(known.images) % known.classes
    label[known.labelled :] = -1
    side = np.full(known.images, known.side, np.int32)
    return Table(
        label, side, side, Arrays(name, np.zeros((known.images, 1, 1, channels), np.uint8))
    )


def open_cifar(name: str, data_dir: Path, split: Split, download: bool = True) -> Table:
    """Open CIFAR's "python version": 50,000 training and 10,000 validation images of 32 px."""
    from torchvision.datasets import CIFAR10, CIFAR100

    kind = CIFAR10 if name == "cifar10" else CIFAR100
    data = _published(kind, data_dir, download, train=split == "train")
    return _table(
        f"{name} {split}", data.data, np.array(data.targets, np.int64), tuple(data.classes)
    )


def open_stl10(data_dir: Path, split: Split, download: bool = True) -> Table:
    """Open STL-10, 96 px: 5,000 labelled, 100,000 unlabelled (-1), 8,000 for validation."""
    from torchvision.datasets import STL10

    parts = "train+unlabeled" if split == "train" else "test"
    data = _published(STL10, data_dir, download, split=parts)
    classes = tuple(getattr(data, "classes", STL10_CLASSES))
    labels = np.asarray(data.labels, np.int64)
    return _table(f"stl10 {split}", data.data.transpose(0, 2, 3, 1), labels, classes)


def _table(
    name: str, images: NDArray[np.uint8], label: NDArray[np.int64], classes: tuple[str, ...]
) -> Table:
    """Return a table of images of one size, (n, h, w, 3)."""
    height = np.full(len(images), images.shape[1], np.int32)
    width = np.full(len(images), images.shape[2], np.int32)
    return Table(label, height, width, Arrays(name, np.ascontiguousarray(images)), classes)


def _published(kind: Any, root: Path, download: bool, **options: Any) -> Any:
    """Return torchvision's reader of the files below ``root``; download them if missing."""
    root = root.expanduser()
    try:
        return kind(root, download=False, **options)
    except RuntimeError as error:
        if not download:
            raise NotDownloaded(
                f"{kind.__name__} is not complete below {root}: a run downloads it there; or put "
                f"its published archive {kind.filename} there (--data-dir names another place)"
            ) from error
        log.info("%s is not complete below %s: downloading", kind.__name__, root)
    try:
        with _patience(DOWNLOAD_TIMEOUT):
            return kind(root, download=True, **options)
    except Exception as error:  # URLError, timeouts, wrong checksums, tar errors
        raise ValueError(
            f"{kind.__name__} is not below {root} and cannot be downloaded ({error}). "
            f"Put its published archive {kind.filename} there, or unpack it so that "
            f"{root / kind.base_folder} exists; --data-dir names another place."
        ) from error


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """Set a timeout for torchvision's connections, which have none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def open_tiny_imagenet(
    data_dir: Path, split: Split, on_bad: OnBad, rules: ImageRules = RULES
) -> Table:
    """Open Tiny ImageNet as published: ``train/WNID/images``, ``val/images``, annotations."""
    root = _tiny_folder(data_dir.expanduser())
    train = root / "train"
    if split == "train":
        return scan(train, cache_root(), on_bad, None, rules)
    table = scan(root / "val" / "images", cache_root(), on_bad, None, rules)
    classes = sorted({name.split("/", 1)[0] for name in list_images(train).names})
    label_of = _tiny_annotations(root / "val" / "val_annotations.txt", classes)
    assert isinstance(table.source, Files)
    if unnamed := sorted(set(table.source.names) - set(label_of)):
        raise ValueError(f"{root}/val/val_annotations.txt does not name {unnamed[0]}")
    label = np.array([label_of[name] for name in table.source.names], np.int64)
    return Table(label, table.height, table.width, table.source, tuple(classes))


def _tiny_annotations(file: Path, classes: list[str]) -> dict[str, int]:
    """Return image name -> label, from lines of ``name wnid x y x y``."""
    if not file.is_file():
        raise ValueError(f"{file} is missing: it holds the validation labels")
    number = {name: i for i, name in enumerate(classes)}
    try:
        lines = [line.split() for line in file.read_text().splitlines() if line.strip()]
        return {line[0]: number[line[1]] for line in lines}
    except (KeyError, IndexError) as error:
        raise ValueError(f"{file} names a class without training images: {error}") from error


def _tiny_folder(data_dir: Path) -> Path:
    folder, archive = data_dir / TINY, data_dir / f"{TINY}.zip"
    if (folder / "train").is_dir():
        return folder
    if not archive.is_file():
        raise NotDownloaded(
            f"Tiny ImageNet is not below {data_dir}: put the published {archive.name} "
            f"or its unpacked folder {TINY} there; --data-dir names another place."
        )
    log.info("unpacking %s", archive)
    with building(folder) as temporary:
        _unpack(archive, temporary)
        inner = temporary / TINY
        if not (inner / "train").is_dir():
            raise ValueError(f"{archive} has no {TINY}/train")
        for entry in inner.iterdir():
            entry.rename(temporary / entry.name)
        inner.rmdir()
    return folder


def _unpack(archive: Path, target: Path) -> None:
    """Unpack a zip into ``target``; refuse paths outside of it, damage, and a disk too small."""
    try:
        with zipfile.ZipFile(archive) as packed:
            members = packed.infolist()
            for member in members:
                if not (target / member.filename).resolve().is_relative_to(target.resolve()):
                    raise ValueError(f"{archive}: {member.filename!r} would leave the folder")
            free = shutil.disk_usage(target).free
            if (need := sum(member.file_size for member in members)) > free:
                raise ValueError(f"{archive} unpacks to {need:,} bytes; {free:,} are free")
            packed.extractall(target)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive} is damaged: {error}; fetch it again") from error
