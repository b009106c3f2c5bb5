"""What a run prints before its first step: what it trains, on what, and where it goes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from models.methods import Method
from pipelines.sources.table import Table
from tools.config.advice import advise
from tools.config.config import ResolvedConfig
from tools.config.view_plan import views_of
from tools.engine.build import Data
from tools.engine.dry_run import size_of

DEMONSTRATION = (
    "photos: patches of 17 photographs that come with the packages, a demonstration; "
    "--data folder:PATH trains on your images"
)


def advice(config: ResolvedConfig, data: Data, processes: int) -> list[str]:
    """Return a line for each setting that does not fit the data or the length of the run."""
    sizes: list[int] = []
    if data.val is not None and (data.val.label >= 0).any():
        sizes = _class_sizes(data.train)
    return [f"note: {line}" for line in advise(config, len(data.train), sizes, processes)]


def banner(
    config: ResolvedConfig,
    data: Data,
    method: Method,
    steps_per_epoch: int,
    folder: Path,
    accelerator: Accelerator,
) -> list[str]:
    """Return the lines that describe a run before it begins."""
    total = config.epochs * steps_per_epoch
    weights = size_of(p for p in method.parameters() if p.requires_grad) / 4e6
    mixture = "" if config.mix == "none" else f", mixture {config.mix}"
    device, processes = accelerator.device.type, accelerator.num_processes
    shares = "1 process" if processes == 1 else f"{processes} processes"
    steps = f"{config.epochs:,} epochs of {steps_per_epoch:,} steps, {total:,} steps in all"
    if config.limit_steps and config.limit_steps < total:
        steps += f", of which this run makes {config.limit_steps:,} (--limit-steps)"
    peak = f"{config.optimizer}, peak learning rate {config.lr:.3g}"
    return [
        f"data      {DEMONSTRATION if config.data == 'photos' else config.data}",
        f"images    {_images(data)}",
        f"learner   {config.method}{mixture}; {config.backbone}, {weights:.1f} M trained weights",
        f"views     {_views(config)}",
        f"training  {steps}; batches of {config.batch_size:,} images; {peak}",
        f"device    {device}, {shares}, precision {config.precision}",
        f"folder    {folder}",
        f"stop      Ctrl-C saves and stops; --resume {folder} continues",
    ]


def _images(data: Data) -> str:
    classes = len(_class_sizes(data.train))
    labels = f" in {classes:,} classes" if classes else " without labels"
    val = "no validation images" if data.val is None else f"{len(data.val):,} for kNN"
    return f"{len(data.train):,} for training{labels}, {val}"


def _views(config: ResolvedConfig) -> str:
    """Return how many views of each side an image has, such as "2 of 224 px, 6 of 96 px"."""
    sides = Counter(view.size for view in views_of(config))
    text = ", ".join(f"{count} of {side} px" for side, count in sides.items())
    changing = config.resolution_schedule or " ".join(map(str, config.multi_scale))
    return f"{text} (the largest change: {changing})" if changing else text


def _class_sizes(table: Table) -> list[int]:
    """Return the number of images of each class that has any."""
    _, sizes = np.unique(table.label[table.label >= 0], return_counts=True)
    return sizes.tolist()
