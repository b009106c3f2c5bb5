"""Names of splits: which sub-folders of a folder are its training and validation images."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipelines.sources.listing import is_hidden
from pipelines.system.progress import print_once

log = logging.getLogger(__name__)

NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""Names of splits in lower case, the usual one first."""
SPLIT_WORDS = frozenset(name for names in NAMES.values() for name in names) | {"dev", "holdout"}


@dataclass(frozen=True, slots=True)
class Splits:
    """The sub-folders of a divided folder."""

    train: Path
    val: Path | None
    """Images for scores; the test images where there is no validation split."""
    unused: tuple[str, ...]
    """Names of the other sub-folders."""

    @property
    def val_is_test(self) -> bool:
        """Whether the scores are those of the test images."""
        return self.val is not None and self.val.name.lower() in NAMES["test"]

    def notes(self) -> list[str]:
        """Return lines to print: what is scored, and what is not used."""
        lines, root = [], self.train.parent
        if self.val is not None and self.val_is_test:
            lines.append(f"{root} has no val/: the scores are those of {self.val.name}/")
        if self.unused:
            named = ", ".join(f"{name}/" for name in self.unused[:5])
            more = f" and {len(self.unused) - 5} more" if len(self.unused) > 5 else ""
            lines.append(f"{root}: {named}{more} not used; --data and --val-data name a folder")
        return lines


def find_splits(path: Path) -> Splits | None:
    """Return the splits of a folder, recognised by name in any case; None: it is not divided.

    ``train`` is a split and not a class if there is a validation or test split, if it is the only
    sub-folder, or if it has sub-folders.

    Raises:
        ValueError: all sub-folders are validation or test splits.
    """
    folders = sub_folders(path)
    found = {kind: _first(folders, kind) for kind in NAMES}
    train, val = found["train"], found["val"] or found["test"]
    if train is None:
        if folders and all(name.lower() in SPLIT_WORDS for name in folders):
            raise ValueError(
                f"{path} has {', '.join(f'{name}/' for name in folders)} but no train/: "
                f"name one of them, as folder:{path / folders[0]}"
            )
        return None
    if val is None and folders != [train] and not sub_folders(path / train):
        return None
    unused = tuple(name for name in folders if name not in (train, val))
    return Splits(path / train, None if val is None else path / val, unused)


def split_folder(path: Path, split: Literal["train", "val"]) -> Path:
    """Return the folder of a split when ``path`` is divided into splits, else ``path`` itself.

    Raises:
        ValueError: it has training images, but none of the other split.
    """
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


def sibling_val(path: Path) -> Path | None:
    """Return the validation folder next to a folder that is a training split, or None."""
    root = path.expanduser().absolute()
    if root.name.lower() not in NAMES["train"] or not root.is_dir():
        return None
    folders = sub_folders(root.parent)
    name = _first(folders, "val") or _first(folders, "test")
    return None if name is None else root.parent / name


def sub_folders(path: Path) -> list[str]:
    """Return the names of the folders in ``path`` that are not hidden, sorted; empty: no folder."""
    try:
        with os.scandir(path) as entries:
            return sorted(e.name for e in entries if e.is_dir() and not is_hidden(e.name))
    except OSError:
        return []


def _first(folders: Sequence[str], kind: str) -> str | None:
    """Return the folder with the first of a split's names, the same in lower case first."""
    for name in NAMES[kind]:
        for folder in sorted(folders, key=lambda f: f != name):
            if folder.lower() == name:
                return folder
    return None


def looks_like_split(name: str) -> bool:
    """Whether a word of a folder's name is that of a split: ``train2017``, ``seg_test``."""
    return not SPLIT_WORDS.isdisjoint(re.split(r"[^a-z]+", name.lower()))


def warnings_of(path: Path, names: Sequence[str]) -> list[str]:
    """Return a line for each sign that folders are taken for classes by mistake.

    Args:
        path: the folder of ``--data``.
        names: the images' paths relative to it.
    """
    folders = Counter(name.rpartition(os.sep)[0] for name in names)
    if folders[""]:  # no labels: images next to the folders, or no folders
        return [] if folders[""] == len(names) else [f"{path}: {why_unlabelled(path, names)}"]
    tops, seconds = Counter[str](), Counter[tuple[str, str]]()
    for folder, count in folders.items():
        parts = folder.split(os.sep, 2)
        tops[parts[0]] += count
        if len(parts) > 1:
            seconds[parts[0], parts[1]] += count
    lines = _nested_classes(path, folders)
    suspects = sorted(name for name in tops if looks_like_split(name))
    if suspects and len(tops) > 1:
        lines.append(
            f"{path}: {_some(suspects)} is trained on as a class{_way_out(path, suspects)}"
        )
    split = [pair for pair in seconds if pair[1].lower() in SPLIT_WORDS]
    held_out = [pair for pair in split if pair[1].lower() not in NAMES["train"]]
    if held_out and len(tops) > 1:
        count = sum(seconds[pair] for pair in held_out)
        top, second = held_out[0]
        lines.append(
            f"{path}: {count:,} images in {len(held_out)} folders such as {top}/{second} are "
            "trained on too. If these are splits, put the split first: PATH/train/CLASS"
        )
    return lines


def why_unlabelled(path: Path, names: Sequence[str]) -> str:
    """Return why the images of a folder have no labels, and what gives them some.

    Args:
        path: the folder.
        names: the images' paths relative to it, some of them directly below it.
    """
    loose = [name for name in names if os.sep not in name]
    if len(loose) == len(names):
        return f"all {len(names):,} images lie directly in {path}, not in PATH/CLASS/"
    classes = sorted({name.split(os.sep, 1)[0] for name in names if os.sep in name})
    lie, them = ("image lies", "it") if len(loose) == 1 else ("images lie", "them")
    return (
        f"{len(loose):,} {lie} in no class folder ({_some(loose)}), and so no image has a label. "
        f"Move {them} into a class folder or out of the data, or keep only class folders with "
        f"--classes FILE, a name a line ({_some(classes)})"
    )


def _nested_classes(path: Path, folders: Counter[str]) -> list[str]:
    """Return a line if the folders taken for classes hold what are more likely the classes.

    ``folders`` are those that hold images, relative to ``path``, with the numbers of images.
    """
    below: dict[str, list[str]] = {}
    for folder in sorted(folders):
        below.setdefault(folder.split(os.sep, 1)[0], []).append(folder)
    tops, branches = list(below), [_branches(group) for group in below.values()]
    place, inner = branches[0]
    if len(tops) == 1:
        if len(inner) < 2:
            return []
        what = "splits" if all(looks_like_split(name) for name in inner) else "classes"
        return [
            f"{path}: all {folders.total():,} images are one class, {tops[0]!r}. If the "
            f"{len(inner)} folders in {place} ({_some(inner)}) are the {what}: "
            f"folder:{path / place}"
        ]
    shared = sorted(set(inner).intersection(*(names for _, names in branches)))
    if len(shared) < 2 or any(looks_like_split(name) for name in (*tops, *shared)):
        return []
    return [
        f"{path}: the classes are its {len(tops)} folders ({_some(tops)}), and each of them holds "
        f"the same folders ({_some(shared)}). If these are the classes, train on one part, "
        f"folder:{path / place}, or put the class first: PATH/{shared[0]}/{tops[0]}"
    ]


def _branches(folders: Iterable[str]) -> tuple[str, list[str]]:
    """Return the folder in which all these folders are, and the names of its sub-folders."""
    listed = list(folders)
    common = os.path.commonpath(listed)
    below = (folder[len(common) + 1 :] for folder in listed if folder != common)
    return common, sorted({folder.split(os.sep, 1)[0] for folder in below})


def _way_out(path: Path, suspects: Sequence[str]) -> str:
    """Return what to do if folders are splits and no classes."""
    train = [name for name in suspects if "train" in name.lower()]
    others = [name for name in suspects if name not in train]
    if train and others:
        return (
            f". If these are splits: --data folder:{path / train[0]} "
            f"--val-data folder:{path / others[0]}"
        )
    return ". If it is a split, move it out of the folder, or keep classes with --classes FILE"


def _some(names: Iterable[str], limit: int = 4) -> str:
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more
