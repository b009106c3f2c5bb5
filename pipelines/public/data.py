"""``open_data``: the rows of a data set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines import datasets
from pipelines.data_facts import DataFacts, channel_facts, data_facts
from pipelines.data_spec import join_sum, short_name
from pipelines.remote.file import RemoteOptions
from pipelines.settings import OnBadImage
from pipelines.sources.classes import match_classes
from pipelines.sources.file_list import inspect_list
from pipelines.sources.files import Files
from pipelines.sources.folder import inspect
from pipelines.sources.image_file import MAX_PIXELS, ImageRules, Pages
from pipelines.sources.published import Split
from pipelines.sources.shard_members import MemberKeys
from pipelines.sources.summary import Summary
from pipelines.sources.table import Table
from pipelines.system.cache import cache_root


@dataclass(frozen=True)
class Data:
    """An opened data set: its rows, and the constants of its images."""

    table: Table
    facts: DataFacts
    spec: str
    split: Split
    on_bad_image: OnBadImage = "stop"
    """What loaders do with an unreadable image, unless their options say otherwise."""

    def __len__(self) -> int:
        return len(self.table)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of each row, (N,); -1 is none."""
        return self.table.label

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty if they have none."""
        return self.table.classes

    @property
    def names(self) -> list[str]:
        """The name of each row, (N,): the path of its file, or such as ``FILE row 17``."""
        return [self.table.source.name(row) for row in range(len(self))]

    def summary(self) -> Summary | None:
        """Return the kinds of the files of a folder or list, and what is left out; else None."""
        source = self.table.source
        if not isinstance(source, Files):
            return None
        if source.listed is not None:
            return inspect_list(source.listed, cache_root(), source.rules).summary
        return inspect(source.root, cache_root(), rules=source.rules).summary


def open_data(  # noqa: PLR0913 - a public builder, with an argument for each flag
    spec: str | Sequence[str],
    split: Split = "train",
    data_dir: str | Path = "data",
    *,
    classes: str | Path | None = None,
    on_bad_image: OnBadImage = "stop",
    channels: int = 3,
    background: str = "white",
    depth_range: tuple[float, float] | None = None,
    pages: Pages = "first",
    max_pixels: int = MAX_PIXELS,
    image_key: str | None = None,
    label_key: str | None = None,
    like: Data | None = None,
    remote: RemoteOptions | None = None,
) -> Data:
    """Open a data set.

    Args:
        spec: ``photos``, ``cifar10``, ``cifar100``, ``stl10``, ``tiny-imagenet``, ``folder:PATH``,
            ``list:FILE``, ``PATH.beton`` or its URL (s3, gs, az, http, https, hf), or
            ``wds:PATTERN``; or several, as a list or joined by `` + ``: their rows follow each
            other, their classes are joined by name.
        split: ``val`` is what a run on ``spec`` would score: a named set's own test split,
            ``PATH/val`` of a folder, ``val.beton`` next to ``train.beton``, and so on.
        data_dir: folder of the published files of named sets.
        classes: a file of class names, one a line; only these are kept, labelled in this order.
        on_bad_image: with files that cannot be read: ``stop``, or ``replace``, which leaves those
            without a readable header out, and lets loaders show the next row for a damaged image.
        channels: channels of the images: 3 is RGB, 1 gray, others are the bands of the files.
        background: colour behind transparent pixels: ``white``, ``black`` or ``#rrggbb``.
        depth_range: samples that become 0 and 255 in images of more than 8 bits that declare no
            range (default: the range of the set).
        pages: the page or frame of a file that is an image: the first, or each.
        max_pixels: larger images are refused.
        image_key: key of the images in tar shards, as ``input.jpg``; None: any image's ending.
        label_key: key of the classes in tar shards, or field of their ``.json``.
        like: training images, whose range, background and class numbers these get.
        remote: how the file of a URL is fetched, and where it is kept (default: in the cache).

    Raises:
        ValueError: there is no such data set, nothing usable in it, or no validation images.
    """
    spec = join_sum(spec) if split == "train" else _validation(join_sum(spec))
    file = None if classes is None else Path(classes)
    rules = ImageRules(background, depth_range, pages, channels, max_pixels)
    if like is not None:
        rules = rules.like(like.table.source.rules)
    keys = MemberKeys(image_key, label_key)
    table = datasets.open_data(
        spec, Path(data_dir), split,
        on_bad=on_bad_image, classes_file=file, rules=rules, keys=keys, remote=remote,
    )  # fmt: skip
    if like is not None:
        table = match_classes(table, like.table)
    return Data(table, _facts(spec, channels), spec, split, on_bad_image)


def _validation(spec: str) -> str:
    """Return the validation images of a data set; it may itself be named as such."""
    found = datasets.default_val(spec)
    if found is not None:
        return found
    datasets.check_spec(spec)
    if re.search("val|test", short_name(spec).lower()):
        return spec
    raise ValueError(
        f"{spec} has no validation images with it: open them by their own name, without split, or "
        "call them val, as val.beton or a folder val"
    )


def _facts(spec: str, channels: int) -> DataFacts:
    """Return the constants of a data set; mean and deviation are empty if none are published."""
    facts = data_facts(spec)
    if channels in (1, len(facts.mean)):
        return channel_facts(facts, channels)
    return replace(facts, mean=(), std=())
