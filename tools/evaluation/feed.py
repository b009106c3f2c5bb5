"""Batches of labelled images for training, as random crops and flips."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.loader import Loader
from pipelines.presets import PRESETS
from pipelines.rng import ORDER
from pipelines.sampler import Sampler
from pipelines.sources.joined import file_names
from pipelines.sources.subset import rows_of_each, share_of
from pipelines.sources.table import Table
from pipelines.step_maker import StepMaker
from pipelines.views import View, ViewPlan
from tools.distributed.launch import cores_per_process
from tools.evaluation.evaluated_run import EvaluatedRun

_FEW_LABELS = ORDER + 2
"""Stream of the random numbers that choose the labels of ``semi``."""


def feed(
    evaluated: EvaluatedRun,
    table: Table,
    batch_size: int,
    seed: int,
    scale: tuple[float, float],
    colors: bool = False,
) -> Loader:
    """Return this process's share of shuffled batches, with one view of each image.

    The view is the papers' for training with labels: a random crop that covers a share ``scale``
    of the area, resized, and a random flip. With ``colors`` it is also grayed and jittered like
    InsDis' training views. The last, incomplete batch of each epoch is dropped.
    """
    config, facts, accelerator = evaluated.config, evaluated.facts, evaluated.accelerator
    side = config.image_size or facts.image_size
    view = View(side, jitter_prob=0.0, gray=0.0)
    if colors:
        (view,) = PRESETS["insdis"](side)
    maker = StepMaker(
        table=table,
        sampler=Sampler(
            len(table), batch_size, seed, accelerator.process_index, accelerator.num_processes
        ),
        views=ViewPlan((replace(view, scale=scale),)),
        decoder=evaluated.decoders.of(table),
        mean=facts.mean,
        std=facts.std,
        device=accelerator.device,
        workers=config.workers or cores_per_process(),
    )
    return Loader(maker, config.prefetch)


def batch_that_fits(wanted: int, num_rows: int, world_size: int) -> int:
    """Return the largest batch up to ``wanted`` that the rows fill and the processes share.

    Raises:
        ValueError: there are fewer rows than processes, or the batch cannot be shared.
    """
    if wanted % world_size:
        raise ValueError(f"--batch-size {wanted} is not divisible by {world_size} processes")
    if num_rows < world_size:
        raise ValueError(f"--data has {num_rows} labelled images for {world_size} processes")
    return min(wanted, num_rows // world_size * world_size)


def stratified(label: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.int64]:
    """Choose a share of each class's rows, at least one, by a hash of (seed, row); ascending.

    The choice depends only on the labels, the fraction and the seed. The rows of a smaller
    fraction are a subset of those of a larger one. Rows labelled -1 are not chosen.

    Args:
        label: (rows,) of the whole table; the order of its rows matters.
        fraction: above 0, at most 1; of n rows ``n * fraction`` are taken, halves rounded up.
        seed: seed of the choice.
    """
    rows = rows_of_each(label, lambda count: share_of(count, fraction), seed, _FEW_LABELS)
    return rows[label[rows] >= 0]


def listed(table: Table, file: Path) -> NDArray[np.int64]:
    """Return the rows of the files that a list such as SimCLR's 1percent.txt names, ascending.

    A line is a file's name, or its path below the data folder; empty lines are skipped.

    Raises:
        ValueError: the list cannot be read, the data are not files, or a name matches no file,
            matches several, or is listed twice.
    """
    try:
        lines = [line.strip() for line in file.expanduser().read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--list {file} cannot be read: {error}") from error
    wanted = [line for line in lines if line]
    if not wanted:
        raise ValueError(f"--list {file} names no image")
    names = file_names(table.source)
    if names is None:
        raise ValueError(f"--list {file} names files, and --data holds none; take --fraction")
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        for key in {name, Path(name).name}:
            rows_of.setdefault(key, []).append(row)
    _refuse(file, "not in --data", (line for line in wanted if line not in rows_of))
    _refuse(
        file,
        "in --data more than once (write its path below the folder)",
        (line for line in wanted if len(rows_of[line]) > 1),
    )
    rows = [rows_of[line][0] for line in wanted]
    if len(set(rows)) < len(rows):
        raise ValueError(f"--list {file} names an image twice")
    return np.sort(np.array(rows, np.int64))


def _refuse(file: Path, why: str, lines: Iterable[str]) -> None:
    bad = list(lines)
    if bad:
        more = f" ({len(bad)} such lines)" if len(bad) > 1 else ""
        raise ValueError(f"--list {file}: {bad[0]} is {why}{more}")
