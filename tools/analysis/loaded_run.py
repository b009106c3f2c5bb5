"""Runs loaded from disk: the network at a checkpoint, the images, and their features."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from models.methods import Method
from models.settings.base import Which
from pipelines.sources.table import Table
from tools.config.config import ResolvedConfig
from tools.config.pixels import facts_of
from tools.distributed.launch import start
from tools.engine import build
from tools.engine.data import Data, open_data_of
from tools.engine.restore import restore
from tools.engine.start import load_init
from tools.scoring.features import evaluating

log = logging.getLogger(__name__)

Features = Literal["backbone", "projection"]
Split = Literal["train", "val"]
BATCH = 128


@dataclass(frozen=True)
class Weights:
    """The network of a run's checkpoint."""

    config: ResolvedConfig
    method: Method
    untrained: Method
    """The network before the first step."""


@dataclass(frozen=True)
class LoadedRun:
    """A run with its network and its images."""

    config: ResolvedConfig
    method: Method
    data: Data
    accelerator: Accelerator
    folder: Path
    left_out: tuple[int, ...] = ()
    """Steps that were skipped because their loss was not finite."""


@dataclass(frozen=True)
class Encoded:
    """Some images of a table, with their features."""

    table: Table
    """Table of only the encoded images."""
    rows: NDArray[np.int64]
    """Their rows in the whole table, (n,)."""
    features: NDArray[np.float32]
    """(n, d)."""


def name_of(folder: Path) -> str:
    """Return a run's name: that of its folder."""
    return folder.resolve().name


def load(folder: Path, checkpoint: Path | None = None) -> tuple[ResolvedConfig, dict[str, Any]]:
    """Return a run's settings and state.

    Raises:
        ValueError: there is no such run or checkpoint.
    """
    try:
        return build.load_run(folder, checkpoint)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def open_weights(folder: Path) -> Weights:
    """Load a run's network, trained and untrained, without its images."""
    config, state = load(folder)
    facts = facts_of(config)
    untrained = build.create_method(config, 1, facts, state["data"]["images"])
    try:
        load_init(config, untrained, facts)
    except ValueError as error:
        log.warning("%s: the weights before the first step are shown as random ones", error)
    return Weights(config, restore(config, state, facts), untrained)


def open_runs(folders: Sequence[Path], encoder: Which | None = None) -> list[LoadedRun]:
    """Load runs of the same data, with an encoder (None: the one that the method's paper scores).

    Raises:
        ValueError: a run, its data or its encoder do not exist, or the runs' data differ.
    """
    loaded = [load(folder) for folder in folders]
    first = loaded[0][0]
    for folder, (config, _) in zip(folders, loaded, strict=True):
        if config.in_chans != first.in_chans:
            raise ValueError(
                f"{folders[0]} has --in-chans {first.in_chans}, {folder} {config.in_chans}: "
                "this figure needs runs on images of the same channels"
            )
        if (config.data, config.val_data) != (first.data, first.val_data):
            raise ValueError(
                f"{folders[0]} was trained on --data {first.data}, {folder} on {config.data}: "
                "this figure needs runs of the same data"
            )
    accelerator = start("no")
    data = open_data_of(first, accelerator)
    opened = []
    for folder, (config, state) in zip(folders, loaded, strict=True):
        method = restore(config, state, facts_of(config), encoder).to(accelerator.device)
        left_out = tuple(sorted(state.get("left_out", ())))
        opened.append(LoadedRun(config, method, data, accelerator, folder, left_out))
    return opened


def split_of(data: Data) -> Split:
    """Return the default split: validation if there is one, else training."""
    return "train" if data.val is None else "val"


def table_of(data: Data, split: Split) -> Table:
    """Return the images of a split.

    Raises:
        ValueError: there is no validation data.
    """
    table = data.train if split == "train" else data.val
    if table is None:
        raise ValueError("this run has no validation images: use --split train")
    return table


def spread(total: int, limit: int) -> NDArray[np.int64]:
    """Return at most ``limit`` distinct rows of 0 to ``total`` - 1, spread evenly."""
    return np.unique(np.linspace(0, total - 1, min(total, limit)).round().astype(np.int64))


def encode(
    run: LoadedRun, split: Split, rows: NDArray[np.int64], features: Features = "backbone"
) -> Encoded:
    """Return the features of the center crops of some rows of a split.

    A single process may call it without the others.
    """
    table = table_of(run.data, split).take(rows)
    encoder = run.method.features if features == "backbone" else run.method.project
    decoders = build.Decoders(run.config, run.accelerator, lambda _: None)
    found: list[Tensor] = []
    try:
        batches = build.evaluation_batches_of(
            run.config, table, facts_of(run.config), decoders, run.accelerator, BATCH, shared=False
        )
        with evaluating(run.method), torch.no_grad(), run.accelerator.autocast():
            found += [encoder(images).float().cpu() for images, _ in batches]
    finally:
        decoders.close()
    return Encoded(table, rows, torch.cat(found).numpy())
