"""Open what a protocol scores: a run's checkpoint or published weights, and the images."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from models.settings.base import Which
from pipelines.remote.errors import without_query
from pipelines.sources.contents import sample_key
from pipelines.sources.table import Table
from tools.config.config import Config, ResolvedConfig
from tools.config.pixels import facts_of
from tools.config.resolve import resolve
from tools.distributed.launch import choose_paths, start
from tools.engine import build
from tools.engine.data import Data, open_data_of
from tools.engine.restore import restore
from tools.evaluation.base import ImageFlags, LoaderName, Split
from tools.evaluation.evaluated_run import EvaluatedRun, describe_damaged
from tools.evaluation.published import open_published

SHARED = ("data", "val_data", "data_dir", "classes", "subset", "loader", "workers", "device_paths")
"""Flags that replace settings of a run."""
ROWS = ("data", "subset", "val_fraction", "classes")
"""Settings that decide which images are trained on."""
PACKAGES = {"ffcv": "ffcv", "dali": "nvidia.dali"}
"""What a loader needs in addition to this project's own packages."""


@contextmanager
def open_run(
    flags: ImageFlags,
    folder: Path,
    checkpoint: Path | None,
    encoder: Which | None,
    split: Split | None = None,
) -> Iterator[EvaluatedRun]:
    """Open a run's checkpoint and the images that the flags name; close the decoders afterwards.

    With a ``split``, that one alone is opened, and takes the place of both.

    Raises:
        ValueError: the run, the checkpoint or the data do not exist, or no image can be scored.
    """
    config, state = build.load_run(folder, checkpoint)
    facts = facts_of(config)  # other data are normalized as the training images were
    method = restore(config, state, facts, encoder)
    changed = with_data(config, flags)
    own_data = (changed.data, changed.val_data) == (config.data, config.val_data)
    loader, reason = loader_for(flags.loader, state.get("loader", config.loader), own_data)
    changed = dataclasses.replace(changed, loader=loader)
    trained = state["data"] if all(getattr(changed, n) == getattr(config, n) for n in ROWS) else {}
    with _opened(changed, flags.precision, split, reason, trained) as parts:
        yield EvaluatedRun(changed, state, facts, *parts, method)


@contextmanager
def open_backbone(
    flags: ImageFlags,
    name: str,
    *,
    init: str | None = None,
    random: bool = False,
    split: Split | None = None,
) -> Iterator[EvaluatedRun]:
    """Open published weights and the images that the flags name; close the decoders afterwards.

    With a ``split``, that one alone is opened, and takes the place of both.

    Raises:
        ValueError: the weights or the data do not exist, or no image can be scored.
    """
    published = open_published(name, init=init, random=random)
    settings = {n: getattr(flags, n) for n in SHARED if getattr(flags, n) is not None}
    given = Config(**settings, interpolation=published.interpolation)
    config = resolve(given, published.facts, flags.precision or "no")
    origin = f"{name}, untrained" if random else name if init is None else f"{name}, {init}"
    with _opened(config, flags.precision, split, "--loader") as parts:
        if published.loaded is not None:
            parts[-1].print(published.loaded)
        state = {"step": 0, "data": {"images": 0}}
        yield EvaluatedRun(config, state, published.facts, *parts, published.method, origin=origin)


@contextmanager
def _opened(
    config: ResolvedConfig,
    precision: str | None,
    split: Split | None,
    reason: str,
    trained: Mapping[str, Any] | None = None,
) -> Iterator[tuple[Table, Table, build.Decoders, Accelerator]]:
    """Yield the two sets of images, their decoders, and the process; close the decoders.

    ``trained`` is what the checkpoint knows of its training images, if they are to be the same.
    """
    accelerator = start(precision or config.precision)
    choose_paths(config.device_paths, accelerator.device)
    if split == "train":  # validation images that do not fit these are no concern
        config = dataclasses.replace(config, val_data="none")
    data = open_data_of(config, accelerator)
    if trained and accelerator.is_main_process and (how := difference(data, trained)):
        named = without_query(config.data)
        accelerator.print(f"note: {named} does not hold the images of the training ({how})")
    val = data.train if split == "train" else data.val
    if val is None:
        raise ValueError(no_images_to_score(data.train))
    train = val if split == "val" else data.train
    loader, why = build.choose(config, val, accelerator.device)
    accelerator.print(f"loader {loader} ({why if config.loader == 'auto' else reason})", flush=True)
    decoders = build.Decoders(config, accelerator)
    try:
        yield train, val, decoders, accelerator
        if split is None:  # of one split, the protocol leaves the damaged images out
            for line in describe_damaged(gather_object(decoders.replaced())):
                accelerator.print(line, flush=True)
    finally:
        decoders.close()


def difference(data: Data, trained: Mapping[str, Any]) -> str | None:
    """Return how images differ from those of a checkpoint, or None as far as is looked at."""
    then, now = trained["images"], len(data.train)
    if then != now:
        return f"{then:,} then, {now:,} now"
    content = trained.get("content")
    if content is None or content == sample_key(data.unconverted or data.train):
        return None  # or the checkpoint is of an older version
    return "as many, with other contents"


def no_images_to_score(train: Table) -> str:
    """Return the refusal of a score without validation images, and what leads on."""
    if not (train.label >= 0).any():
        return (
            "there are no images to score, and the training images have no labels: --data and "
            "--val-data name labelled images"
        )
    return (
        "there are no images to score: --val-data names labelled ones (train.py --val-fraction 0.1 "
        "keeps a tenth of --data for them)"
    )


def with_data(config: ResolvedConfig, flags: ImageFlags) -> ResolvedConfig:
    """Return the run's settings, with its data replaced by those of the command line.

    If ``--data`` is given without ``--val-data``, that data set's own validation images are
    scored. The run's ``--classes``, ``--subset`` and ``--val-fraction`` do not apply to other data.
    """
    given = {n: getattr(flags, n) for n in SHARED if getattr(flags, n) is not None}
    if config.device_paths == "fused":  # the run may be scored on the host
        given = {"device_paths": "auto"} | given
    if flags.data is not None and flags.data != config.data:
        own = ("val_data", "classes", "subset", "val_fraction")
        given = dict.fromkeys(own) | given
    return dataclasses.replace(config, **given)


def loader_for(asked: LoaderName | None, trained: LoaderName, own: bool) -> tuple[LoaderName, str]:
    """Return the ``--loader`` of an evaluation, and the reason.

    Loaders differ by up to 2 grey levels, so a run's own images are decoded as in training.

    Args:
        asked: the flag, if it is given.
        trained: the loader of the run's training.
        own: whether the images are the run's.
    """
    if asked is not None:
        return asked, "--loader"
    if not own or not _is_installed(PACKAGES.get(trained, "torch")):
        return "auto", ""
    return trained, "as in training"


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # not even its parent is
        return False
