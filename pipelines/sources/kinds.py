"""The kinds of data sets: how each is recognised, checked and opened, and what it is scored on."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipelines.beton.format import open_beton
from pipelines.beton.pattern import is_pattern, open_pattern
from pipelines.beton.remote import is_remote_beton, manifest_of, open_remote_beton, remote_val
from pipelines.data_spec import NAMED, PLUS, REMOTE_FORMS, STRAY, check_prefixed, is_spec, nearest
from pipelines.remote.file import RemoteOptions
from pipelines.remote.url import is_remote, title_of
from pipelines.sources.classes import classes_there
from pipelines.sources.file_list import scan_list
from pipelines.sources.folder import OnBad, scan
from pipelines.sources.image_file import RULES, ImageRules
from pipelines.sources.patterns import check_files
from pipelines.sources.photos import prepare_photos
from pipelines.sources.published import Split, open_cifar, open_stl10, open_tiny_imagenet
from pipelines.sources.shard_files import check_shards, val_pattern
from pipelines.sources.shard_members import USUAL, MemberKeys
from pipelines.sources.shards import open_shards
from pipelines.sources.splits import NAMES, find_splits, sibling_val, split_folder, sub_folders
from pipelines.sources.table import Table
from pipelines.system.cache import cache_root
from pipelines.system.progress import print_once

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opening:
    """How a data set is opened."""

    data_dir: Path
    """Folder of the published files of the named sets."""
    split: Split = "train"
    on_bad: OnBad = "stop"
    keep: tuple[str, ...] | None = None
    """Classes to keep, in the order of their labels; None: all."""
    download: bool = True
    """Fetch published files that are missing."""
    rules: ImageRules = RULES
    keys: MemberKeys = USUAL
    """Which members of tar shards are images and classes."""
    remote: RemoteOptions | None = None
    """How remote files are fetched and kept; None: in the cache, with room for all of them."""
    is_part: bool = False
    """Whether other data sets are joined to it: they may hold the classes that it lacks."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of data sets. Its functions take the text of ``--data``, with the prefix."""

    form: str
    """The text in general, as ``folder:PATH``."""
    check: Callable[[str], object]
    """Refuse a place that does not exist, without opening it; ``ValueError``."""
    open: Callable[[str, Opening], Table]
    """Open it. Classes that are not kept may remain: the caller leaves them out."""
    val: Callable[[str], str | None]
    """Return the validation data that belongs to it, or None."""


def kind_of(spec: str) -> Kind:
    """Return the kind of one data set.

    Raises:
        ValueError: it has the form of none; the text suggests the nearest name.
    """
    is_beton = is_remote_beton(spec) if is_remote(spec) else spec.endswith(".beton")
    if is_beton and is_pattern(spec):
        return PATTERN
    if is_remote(spec):  # first: hf://datasets/... is one, and hf:ORG/NAME is none
        return REMOTE
    for prefix, kind in PREFIXED.items():
        if spec.startswith(prefix):
            check_prefixed(prefix, spec)
            return kind
    if spec.endswith(".beton"):
        return BETON
    if spec in NAMED:
        return PUBLISHED
    raise ValueError(f"no data set {spec!r}{_hint(spec)}; choose from {' '.join(grammar())}")


def grammar() -> tuple[str, ...]:
    """Return the forms of ``--data``."""
    return (*NAMED, *(kind.form for kind in (*PREFIXED.values(), BETON, REMOTE)))


def _hint(spec: str) -> str:
    if PLUS in spec:
        return _no_sum(spec)
    place = spec.strip(STRAY)
    if place and Path(place).expanduser().is_dir():
        return f": for the folder write folder:{place}"
    if spec.endswith((".tar", ".tar}")):
        return f": for tar shards write wds:{spec}"
    return nearest(spec)


def _no_sum(spec: str) -> str:
    """Return which part of a text with plus signs is no data set; empty without plus signs."""
    wrong = next((piece for piece in spec.split(PLUS) if not is_spec(piece)), None)
    return f": + joins data sets, and {wrong!r} is none{nearest(wrong)}" if wrong else ""


def _place(spec: str) -> Path:
    path = Path(spec.removeprefix("folder:")).expanduser()
    if not path.exists():
        raise ValueError(f"{path} does not exist{_no_sum(spec)}")
    return path


def _check_folder(spec: str) -> None:
    path = _place(spec)
    if not path.is_dir():
        other = {".beton": f"{path}", ".tar": f"wds:{path}", ".parquet": f"parquet:{path}"}
        write = other.get(path.suffix, f"list:{path}, if its lines name images")
        raise ValueError(f"{path} is not a folder: write {write}")


def _open_folder(spec: str, opening: Opening) -> Table:
    path, keep = split_folder(_place(spec), opening.split), opening.keep
    if keep is not None and opening.is_part:
        keep = classes_there(keep, sub_folders(path), str(path))
    return scan(path, cache_root(), opening.on_bad, keep, opening.rules)


def _val_folder(spec: str) -> str | None:
    path = Path(spec.removeprefix("folder:"))
    if path.expanduser().is_dir():
        splits = find_splits(path.expanduser())
        if splits is not None and splits.val is not None:
            return spec
    sibling = sibling_val(path)
    if sibling is not None and sibling.name.lower() in NAMES["test"]:
        print_once(log, f"{sibling.parent} has no val/: the scores are those of {sibling.name}/")
    return None if sibling is None else f"folder:{sibling}"


def _list_file(spec: str) -> Path:
    file = Path(spec.removeprefix("list:")).expanduser()
    if not file.is_file():
        there = "is a folder: write folder:PATH" if file.is_dir() else "does not exist"
        raise ValueError(f"{file} {there}{_no_sum(spec)}")
    return file


def _open_list(spec: str, opening: Opening) -> Table:
    return scan_list(_list_file(spec), cache_root(), opening.on_bad, opening.rules)


def _val_list(spec: str) -> str | None:
    found = _val_file(spec.removeprefix("list:"))
    return None if found is None else f"list:{found}"


def _open_beton(spec: str, opening: Opening) -> Table:
    table = open_beton(_place(spec))
    _note_part(spec)
    return table


def _note_part(place: str) -> None:
    """Say that a file is one of several parts, if it is."""
    part = manifest_of(place).get("shard")
    if isinstance(part, dict):
        print_once(
            log,
            f"{title_of(place)} is part {part.get('number')} of {part.get('of')} parts, counted "
            "from 0: a pattern, as 'train-*.beton', names all of them",
        )


def _val_file(name: str) -> str | None:
    """Return the file in whose name "val" or "test" stands for "train", if it is there."""
    path = Path(name)
    for name in ("val", "valid", "validation", "test"):
        place = path.with_name(re.sub(r"train(?!.*train)", name, path.name))
        if place.name != path.name and place.expanduser().is_file():
            if name == "test":
                print_once(
                    log, f"{path} has no val{path.suffix}: the scores are those of {place.name}"
                )
            return str(place)
    return None


def _open_shards(spec: str, opening: Opening) -> Table:
    keys, how, pattern = opening.keys, opening, spec.removeprefix("wds:")
    return open_shards(pattern, how.on_bad, keys.image, how.rules, keys.label, how.remote)


def _val_shards(spec: str) -> str | None:
    found = val_pattern(spec.removeprefix("wds:"))
    if found is None:
        return None
    pattern, is_test = found
    if is_test:
        print_once(log, f"{spec} has no val shards: the scores are those of wds:{pattern}")
    return f"wds:{pattern}"


def _check_url(url: str) -> None:
    if not is_remote_beton(url):
        hub = ". A Parquet data set of the Hub is hf:ORG/NAME" if url.startswith("hf:") else ""
        raise ValueError(f"{REMOTE_FORMS}{hub}")


def _open_remote(url: str, opening: Opening) -> Table:
    table = open_remote_beton(url, opening.remote)
    _note_part(url)
    return table


def _val_remote(url: str) -> str | None:
    place = remote_val(url)
    if place is not None and "test" in place.rpartition("/")[2] and "test" not in url:
        print_once(log, f"{url} has no val.beton: the scores are those of {place}")
    return place


def _open_pattern(pattern: str, opening: Opening) -> Table:
    def open_one(place: str) -> Table:
        if is_remote(place):
            return open_remote_beton(place, opening.remote)
        return open_beton(Path(place))

    return open_pattern(pattern, open_one)


def _val_pattern(pattern: str) -> str | None:
    found = val_pattern(pattern)
    if found is None:  # one file for all parts
        single = re.sub(r"train[^/]*$", "train.beton", pattern)
        return None if single == pattern or is_pattern(single) else kind_of(single).val(single)
    if found[1]:
        print_once(log, f"{pattern} has no val files: the scores are those of {found[0]}")
    return found[0]


def _open_published(name: str, opening: Opening) -> Table:
    how, split = opening, opening.split
    if name == "photos":
        photos = prepare_photos(cache_root()) / split
        return scan(photos, cache_root(), how.on_bad, None, how.rules)
    if name in ("cifar10", "cifar100"):
        return open_cifar(name, how.data_dir, split, how.download)
    if name == "stl10":
        return open_stl10(how.data_dir, split, how.download)
    return open_tiny_imagenet(how.data_dir, split, how.on_bad, how.rules)


def _converted(form: str, why: str) -> Kind:
    """Return a kind that only ``tools/write_ffcv.py`` reads."""

    def refuse(spec: str, opening: Opening | None = None) -> Table:
        raise ValueError(
            f"{why}:\n"
            f"  python tools/write_ffcv.py {shlex.quote(spec)} train.beton --keep-jpeg "
            "--shuffle 0\n  python train.py --data train.beton"
        )

    def check(spec: str) -> None:
        refuse(spec)

    return Kind(form, check, refuse, lambda spec: None)


PREFIXED: dict[str, Kind] = {
    "folder:": Kind("folder:PATH", _check_folder, _open_folder, _val_folder),
    "list:": Kind("list:FILE", _list_file, _open_list, _val_list),
    "wds:": Kind("wds:PATTERN", check_shards, _open_shards, _val_shards),
    "parquet:": _converted(
        "parquet:PATTERN",
        "Parquet files are converted before training, because an image is no piece of the file",
    ),
    "hf:": _converted(
        "hf:ORG/NAME",
        "data sets of Hugging Face are converted before training, because an image is no piece of "
        "their Parquet files",
    ),
}
REMOTE = Kind("URL.beton", _check_url, _open_remote, _val_remote)
PATTERN = Kind("PATTERN.beton", check_files, _open_pattern, _val_pattern)
BETON = Kind("PATH.beton", _place, _open_beton, _val_file)
PUBLISHED = Kind("NAME", lambda spec: None, _open_published, lambda spec: spec)
