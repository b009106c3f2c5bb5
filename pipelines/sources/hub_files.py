"""Which parquet files of a data set on the Hugging Face hub are a split: its card, or their names.

The rules are those of the hub's pages "Manual Configuration" and "File names and splits": a card
lists the files of each configuration and split under ``configs``; without it, a file's name or
folder has the split's name as a word, and a set without such names is a train split.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

SPLITS = {
    "train": ("train", "training"),
    "val": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Names of the splits on the hub, the usual one first."""
DEFAULT = "default"

Files = dict[str, dict[str, list[str]]]
"""Configuration -> split -> files."""


@dataclass(frozen=True, slots=True)
class HubData:
    """``hf:ORG/NAME@REVISION/CONFIG:SPLIT``."""

    name: str
    """ORG/NAME."""
    revision: str | None = None
    """Branch, tag or commit; None: the main branch."""
    config: str | None = None
    split: str | None = None

    @classmethod
    def parse(cls, spec: str) -> HubData:
        """Return what a spec means; everything after ORG/NAME may be absent.

        Raises:
            ValueError: it has another form.
        """
        match = re.fullmatch(
            r"hf:(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>refs/[^/:@]+/[^/:@]+|[^/:@]+))?"
            r"(/(?P<config>[^/:@]+))?(:(?P<split>[^/:@]+))?",
            spec,
        )
        if match is None:
            raise ValueError(
                f"{spec} is no data set of the hub: write hf:ORG/NAME, and if needed "
                "hf:ORG/NAME@REVISION/CONFIG:SPLIT"
            )
        return cls(**match.groupdict())


def list_splits(names: Sequence[str], card: Mapping[str, Any]) -> Files:
    """Return the parquet files of each configuration and split, sorted by name.

    Args:
        names: all files of the data set.
        card: the metadata of its card.
    """
    parquet = sorted(name for name in names if name.endswith(".parquet"))
    return _by_card(parquet, card) or _by_name(parquet)


def _by_card(parquet: Sequence[str], card: Mapping[str, Any]) -> Files:
    found: Files = {}
    for config in _dicts(card.get("configs")):
        folder = str(config.get("data_dir") or "")
        for split, pattern in _patterns(config.get("data_files")):
            wanted = _regex(str(PurePosixPath(folder, pattern)))
            files = [name for name in parquet if wanted.fullmatch(name)]
            if files:
                splits = found.setdefault(str(config.get("config_name", DEFAULT)), {})
                splits.setdefault(split, []).extend(files)
    return found


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _patterns(data_files: Any) -> Iterator[tuple[str, str]]:
    """Yield split and pattern of a card's ``data_files``, in each of its forms."""
    if isinstance(data_files, str):
        yield "train", data_files
    for entry in data_files if isinstance(data_files, list) else ():
        if isinstance(entry, str):
            yield "train", entry
        elif isinstance(entry, dict):
            paths = entry.get("path", ())
            for path in [paths] if isinstance(paths, str) else paths:
                yield str(entry.get("split", "train")), str(path)


def _regex(pattern: str) -> re.Pattern[str]:
    """Return a glob as a regular expression: ``*`` stays in a folder, ``**`` does not."""
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    return re.compile("".join(words.get(part, re.escape(part)) for part in parts))


def _by_name(parquet: Sequence[str]) -> Files:
    found: Files = {}
    for name in parquet:
        config, split = place_of(name)
        found.setdefault(config, {}).setdefault(split, []).append(name)
    return found


def place_of(name: str) -> tuple[str, str]:
    """Return configuration and split of a parquet file from its path.

    ``CONFIG/SPLIT/0000.parquet`` (the hub's own conversion), ``data/SPLIT-00000-of-00009.parquet``
    and ``CONFIG/SPLIT-...`` are known; elsewhere the split is a word of the file's name or of
    a folder's.
    """
    *folders, file = name.split("/")
    stem = file.removesuffix(".parquet")
    numbered = re.fullmatch(r"(.+?)-\d{5}-of-\d{5}(-[0-9a-f]+)?", stem)
    split = _split_in(stem)
    if re.fullmatch(r"\d{4}", stem) and len(folders) > 1:
        split = folders.pop()
    elif numbered is not None and split is None:
        split = numbered[1]
    elif split is None:
        place = next((i for i, folder in enumerate(folders) if _split_in(folder)), None)
        split = "train" if place is None else _split_in(folders.pop(place))
    config = next((folder for folder in folders if folder != "data"), DEFAULT)
    return config, split or "train"


def _split_in(text: str) -> str | None:
    """Return the name of a split that is a word of ``text``."""
    known = {word for words in SPLITS.values() for word in words}
    return next((word for word in re.split(r"[^a-z]+", text.lower()) if word in known), None)


def choose(files: Files, data: HubData, split: str) -> tuple[str, str]:
    """Return the configuration and the split that are meant.

    Args:
        files: those of the data set, not empty.
        data: what the user named.
        split: ``train`` or ``val``, which holds where ``data`` names no split.

    Raises:
        ValueError: there is no such configuration or split, or several configurations; the text
            lists them.
    """
    where = f"hf:{data.name}" + (f"@{data.revision}" if data.revision else "")
    config = data.config or (DEFAULT if DEFAULT in files else next(iter(files)))
    if config not in files or (data.config is None and config != DEFAULT and len(files) > 1):
        raise ValueError(
            f"{where}{f' has no configuration {data.config}; it' if data.config else ''} has the "
            f"configurations {_list(files)}: {where}/{next(iter(files))}"
        )
    splits = files[config]
    wanted = [data.split] if data.split else [*SPLITS["train"]]
    if data.split is None and split == "val":
        wanted = [*SPLITS["val"], *SPLITS["test"]]
    for name in wanted:
        if name in splits:
            return config, name
    place = f"{where}/{data.config}" if data.config else where
    has_part = any(name.startswith("partial-") for name in splits)
    raise ValueError(
        f"{place} has no split {data.split or split}; it has {_list(splits)}: "
        f"{place}:{next(iter(splits))}"
        + (" (partial: the hub converts only a part of large sets)" * has_part)
    )


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)


def card_features(card: Mapping[str, Any], config: str) -> dict[str, dict[str, Any]]:
    """Return the features of a card's ``dataset_info`` as in a schema's metadata, by column.

    Files that were not written by Hugging Face's library have no metadata; their card may name the
    classes all the same.
    """
    info = card.get("dataset_info")
    infos = [info] if isinstance(info, dict) else _dicts(info)
    chosen = next((entry for entry in infos if entry.get("config_name", config) == config), {})
    found: dict[str, dict[str, Any]] = {}
    for feature in _dicts(chosen.get("features")):
        kind = feature.get("dtype")
        if kind == "image":
            found[str(feature.get("name"))] = {"_type": "Image"}
        elif isinstance(kind, dict) and isinstance(kind.get("class_label"), dict):
            names = kind["class_label"].get("names", {})
            if isinstance(names, dict):
                names = [names[key] for key in sorted(names, key=int)]
            found[str(feature.get("name"))] = {"_type": "ClassLabel", "names": list(names)}
    return found
