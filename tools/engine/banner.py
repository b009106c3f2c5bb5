"""What a run prints before its first step: what it trains, on what, and where it goes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from models.methods import Method
from pipelines.sampler import Sampler
from pipelines.sources.table import Table
from pipelines.system.units import counted
from pipelines.system.workers import cores_per_process
from tools.config.advice import advise
from tools.config.config import Config, ResolvedConfig
from tools.config.pixels import describe_channels
from tools.config.resolve import describe_defaults
from tools.config.sharing import changes
from tools.config.view_plan import describe_crops, views_of
from tools.engine import fetching, memory
from tools.engine.architecture import describe_layers
from tools.engine.data import Data, decode_bounds
from tools.engine.dry_run import size_of
from tools.engine.train_state import TrainState
from tools.engine.trainer import schedule_change

FAR_ABOVE = 16
"""Threads of a core above which --workers is remarked on."""
DEMONSTRATION = (
    "photos: patches of 17 photographs that come with the packages, a demonstration; "
    "--data folder:PATH trains on your images"
)


def notes(
    given: Config,
    config: ResolvedConfig,
    data: Data,
    method: Method,
    sampler: Sampler,
    processes: int,
    *,
    planned: bool = False,
) -> list[str]:
    """Return what a reader of the settings should know, in lines.

    These are defaults that differ from those of other runs, and numbers that do not fit the data or
    the length of the run.

    Args:
        given: the settings as given.
        config: the same, resolved.
        data: the images.
        method: the method with its backbone.
        sampler: the rows of the run's steps.
        processes: number of processes.
        planned: include what the kNN score says of itself when training begins.
    """
    lines = [
        *describe_defaults(given, config),
        *describe_crops(given, config),
        *describe_layers(config, method),
    ]
    if channels := describe_channels(config):
        lines.append(channels)
    if sampler.balance is not None:
        lines.append(sampler.balance.summary(sampler.batch_size))
    cores = cores_per_process()
    if (config.workers or 0) > FAR_ABOVE * cores:
        lines.append(
            f"note: --workers {config.workers} are threads of each process, which has "
            f"{counted(cores, 'core')}: more than a few for a core only take memory"
        )
    lines += [*fetching.notes(config, data.train), *memory.notes(config, data)]
    lines += [f"--accumulate {config.accumulate}: {change}" for change in changes(config)]
    scored = planned and data.val is not None and (data.val.label >= 0).any()
    sizes = _class_sizes(data.train) if scored else []
    advice = advise(config, len(data.train), sizes, processes)
    return [*lines, *(f"note: {line}" for line in advice)]


def resumed(
    config: ResolvedConfig, state: TrainState, steps_per_epoch: int, step: int
) -> list[str]:
    """Return where a resumed run continues, and what other --epochs change.

    At step 0 that is nothing, but for a --resume auto that found nothing to continue.
    """
    if config.resume == "auto" and state.last_good is None:
        return ["--resume auto: no run to continue: this is a new one"]
    if not step:
        return []
    change = schedule_change(config, state.epochs_before, step, steps_per_epoch)
    return [f"run {state.folder}, resumed at step {step:,}", *([change] if change else [])]


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
    shares = counted(processes, "process")
    epochs = counted(config.epochs, "epoch")
    steps = f"{epochs} of {counted(steps_per_epoch, 'step')}, {counted(total, 'step')} in all"
    if config.limit_steps and config.limit_steps < total:
        steps += f", of which this run makes {config.limit_steps:,} (--limit-steps)"
    peak = f"{config.optimizer}, peak learning rate {config.lr:.3g}"
    return [
        f"data      {DEMONSTRATION if config.data == 'photos' else config.data}",
        f"images    {describe_images(data)}",
        f"learner   {config.method}{mixture}; {config.backbone}, {weights:.1f} M trained weights",
        f"views     {_views(config)}",
        f"training  {steps}; batches of {config.batch_size:,} images; {peak}",
        f"device    {device}, {shares}, precision {config.precision}",
        f"memory    {_decoding(config, data, accelerator)}",
        f"folder    {folder}",
        f"stop      Ctrl-C saves and stops; --resume {folder} continues",
    ]


def describe_images(data: Data) -> str:
    """Return the numbers of images and of classes, as "40 for training in 2 classes, ..."."""
    classes = len(_class_sizes(data.train))
    labels = f" in {counted(classes, 'class')}" if classes else " without labels"
    val = "no validation images" if data.val is None else f"{len(data.val):,} for kNN"
    return f"{len(data.train):,} for training{labels}, {val}"


def _decoding(config: ResolvedConfig, data: Data, accelerator: Accelerator) -> str:
    rows = config.batch_size // accelerator.num_processes
    loader, bounds = decode_bounds(config, data, accelerator.device, rows)
    bound = bounds.get(loader)
    if bound is None:
        return f"--loader {loader} cannot read these images"
    return f"--loader {loader} holds at most {bound.bytes / 2**20:,.1f} MiB decoded: {bound.what}"


def _views(config: ResolvedConfig) -> str:
    """Return how many views of each side an image has, such as "2 of 224 px, 6 of 96 px"."""
    sides = Counter(view.size for view in views_of(config))
    text = ", ".join(f"{count} of {side} px" for side, count in sides.items())
    changing = config.resolution_schedule or " ".join(map(str, config.multi_scale))
    return f"{text} (the largest change: {changing})" if changing else text


def _class_sizes(table: Table) -> list[int]:
    """Return the number of images of each class that has any."""
    counts = np.zeros(int(table.label.max(initial=-1)) + 1, np.int64)
    for begin in range(0, len(table), 1 << 20):  # part by part, for little memory
        label = table.label[begin : begin + (1 << 20)]
        counts += np.bincount(label[label >= 0], minlength=len(counts))
    return counts[counts > 0].tolist()
