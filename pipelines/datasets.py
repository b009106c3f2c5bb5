"""The grammar of ``--data`` and ``--val-data``, and the constants of each data set.

::

    photos  cifar10  cifar100  stl10  tiny-imagenet  folder:PATH  PATH.beton
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import re
import shlex
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.beton.format import open_beton
from pipelines.data_facts import DATASETS
from pipelines.sources.arrays import Arrays
from pipelines.sources.classes import keep_classes, read_classes
from pipelines.sources.folder import OnBad, scan
from pipelines.sources.image_file import RULES, ImageRules
from pipelines.sources.photos import prepare_photos
from pipelines.sources.published import Split, open_cifar, open_stl10, open_tiny_imagenet
from pipelines.sources.splits import NAMES, find_splits, sibling_val
from pipelines.sources.table import Table
from pipelines.system.cache import cache_root
from pipelines.system.progress import print_once

log = logging.getLogger(__name__)


GRAMMAR = (*DATASETS, "folder:PATH", "PATH.beton")


def open_data(
    spec: str,
    data_dir: Path,
    split: Split = "train",
    *,
    on_bad: OnBad = "stop",
    classes_file: Path | None = None,
    download: bool = True,
    rules: ImageRules = RULES,
) -> Table:
    """Open the data set that ``spec`` names.

    Args:
        spec: a name or path in the grammar above.
        data_dir: folder of the published files of the named sets.
        split: ``folder:PATH`` means its training or validation split if it is divided
            (``pipelines.sources.splits``); a ``.beton`` has one split only.
        on_bad: what to do with files whose header cannot be read.
        classes_file: keep these classes only (a name a line), labelled in the file's order.
        download: fetch published files that are missing.
        rules: what the image files become, with the number of channels of the images.

    Raises:
        NotDownloaded: a published set is missing, and ``download`` is off.
        ValueError: there is no such data set, nothing usable in it, or its images have another
            number of channels.
    """
    keep = None if classes_file is None else read_classes(classes_file)
    if spec.startswith("folder:"):
        return scan(_split_folder(_path(spec), split), cache_root(), on_bad, keep, rules)
    table = with_channels(_open_named(spec, data_dir, split, on_bad, download, rules), rules, spec)
    return table if keep is None else keep_classes(table, keep, spec)


def check_spec(spec: str) -> None:
    """Refuse a spec outside the grammar or a path that does not exist, without opening it.

    Raises:
        ValueError: it is refused; the text suggests the nearest name.
    """
    if spec.startswith("folder:") or spec.endswith(".beton"):
        _path(spec)
    elif spec.startswith("wds:"):
        raise ValueError(
            "tar shards are converted before training, because rows are read in any order:\n"
            f"  python tools/write_ffcv.py {shlex.quote(spec)} train.beton --keep-jpeg "
            "--shuffle 0\n  python train.py --data train.beton"
        )
    elif spec not in DATASETS:
        raise ValueError(f"no data set {spec!r}{_hint(spec)}; choose from {' '.join(GRAMMAR)}")


def with_channels(table: Table, rules: ImageRules, spec: str) -> Table:
    """Return the table if its images have the channels asked for; RGB arrays become gray.

    Raises:
        ValueError: they have another number of channels; the text has the flag.
    """
    if table.channels == rules.channels:
        return table
    if rules.channels == 1 and isinstance(table.source, Arrays):
        images = luma(table.source.images)[..., None]
        return dataclasses.replace(table, source=Arrays(table.source.title, images))
    raise ValueError(
        f"{spec} holds images of {table.channels} channels, not {rules.channels}: "
        f"--in-chans {table.channels}"
    )


def luma(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return Pillow's gray of RGB images, (..., 3) to (...)."""
    gray = np.zeros(images.shape[:-1], np.uint32)
    for channel, weight in enumerate((19595, 38470, 7471)):
        gray += weight * images[..., channel].astype(np.uint32)
    return ((gray + 0x8000) >> 16).astype(np.uint8)


def _open_named(
    spec: str, data_dir: Path, split: Split, on_bad: OnBad, download: bool, rules: ImageRules
) -> Table:
    check_spec(spec)
    if spec.endswith(".beton"):
        return open_beton(_path(spec))
    if spec == "photos":
        return scan(prepare_photos(cache_root()) / split, cache_root(), on_bad, None, rules)
    if spec in ("cifar10", "cifar100"):
        return open_cifar(spec, data_dir, split, download)
    if spec == "stl10":
        return open_stl10(data_dir, split, download)
    return open_tiny_imagenet(data_dir, split, on_bad, rules)


def _hint(spec: str) -> str:
    if Path(spec).expanduser().is_dir():
        return f": for the folder write folder:{spec}"
    if spec.endswith((".tar", ".tar}")):
        return f": for tar shards write wds:{spec}"
    near = difflib.get_close_matches(spec, [*DATASETS, "folder:"], n=1)
    return f": did you mean {near[0]!r}?" if near else ""


def _path(spec: str) -> Path:
    path = Path(spec.removeprefix("folder:")).expanduser()
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    return path


def _split_folder(path: Path, split: Split) -> Path:
    """Return the folder of a split when ``path`` is divided into splits, else ``path`` itself."""
    splits = find_splits(path)
    if splits is None:
        return path
    if split == "train":
        for line in splits.notes():
            print_once(log, line)
        return splits.train
    if splits.val is None:
        raise ValueError(
            f"{path} has {splits.train.name}/ but no val/, valid/, validation/ or test/: "
            "--val-data names other images"
        )
    return splits.val


def default_val(spec: str) -> str | None:
    """Return the validation data that belongs to ``spec``, to be opened as split ``val``, or None.

    It is a named set's own test split; ``val/`` in the folder or next to ``train/``, or the test
    split where there is none (``pipelines.sources.splits`` has the names); ``val.beton`` next to
    ``train.beton`` (any name in which "train" can be replaced by "val").
    """
    if spec in DATASETS:
        return spec
    path = Path(spec.removeprefix("folder:"))
    if spec.endswith(".beton"):
        return _val_beton(path)
    if path.expanduser().is_dir():
        splits = find_splits(path.expanduser())
        if splits is not None and splits.val is not None:
            return spec
    sibling = sibling_val(path)
    if sibling is not None and sibling.name.lower() in NAMES["test"]:
        print_once(log, f"{sibling.parent} has no val/: the scores are those of {sibling.name}/")
    return None if sibling is None else f"folder:{sibling}"


def _val_beton(path: Path) -> str | None:
    for name in ("val", "valid", "validation", "test"):
        place = path.with_name(re.sub(r"train(?!.*train)", name, path.name))
        if place.name != path.name and place.expanduser().is_file():
            if name == "test":
                print_once(log, f"{path} has no val.beton: the scores are those of {place.name}")
            return str(place)
    return None
