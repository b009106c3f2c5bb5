"""Train a detector by SGD on shuffled, randomly flipped images."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipelines.sampler import Sampler
from tools.evaluation.detection.dataset import DetectionDataset
from tools.evaluation.detection.schedule import MOMENTUM, WEIGHT_DECAY, DetectionSchedule

Target = dict[str, Tensor]
Batches = Generator[tuple[list[Tensor], list[Target]], None, None]

AHEAD = 3
"""Number of steps whose images are read ahead."""


def train(
    model: nn.Module,
    dataset: DetectionDataset,
    schedule: DetectionSchedule,
    accelerator: Accelerator,
    *,
    seed: int,
    workers: int,
    print_fn: Callable[[str], None],
) -> float | None:
    """Train in place; return the loss of the last steps, or None if there are no steps.

    The images of a step and their flips depend only on (seed, step). torchvision draws image
    sides and regions from torch's generator, which is seeded for each process.

    Raises:
        ValueError: the images do not fill a batch, a file cannot be read, or the loss is not
            finite.
    """
    torch.manual_seed(seed * accelerator.num_processes + accelerator.process_index)
    trained, optimizer = accelerator.prepare(model, sgd(model, schedule.lr))
    trained.train()
    feed = batches(dataset, schedule, accelerator, seed=seed, workers=workers)
    every, recent, mean = max(schedule.steps // 10, 1), [], None
    for step, (images, targets) in zip(range(schedule.steps), feed, strict=False):
        rate = schedule.rate(step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = torch.stack(list(trained(images, targets).values())).sum()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent.append(loss.detach())
        if (step + 1) % every == 0 or step + 1 == schedule.steps:
            mean = float(accelerator.reduce(torch.stack(recent).mean(), "mean"))
            if not np.isfinite(mean):
                raise ValueError(
                    f"the loss is {mean} by step {step + 1}: lower --lr ({schedule.lr:g})"
                )
            print_fn(f"step {step + 1:,}/{schedule.steps:,}  loss {mean:.3f}  lr {rate:.2g}")
            recent.clear()
    if schedule.steps:
        average_norms(model, feed, schedule.precise_bn, accelerator)
    feed.close()
    return mean


def sgd(model: nn.Module, lr: float) -> torch.optim.SGD:
    """Return SGD with momentum; norm layers have no weight decay, as in detectron2."""
    norms = [p for m in model.modules() if isinstance(m, _BatchNorm) for p in m.parameters()]
    known = {id(p) for p in norms}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if id(p) not in known]},
        {"params": norms, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)


@torch.no_grad()
def average_norms(
    model: nn.Module,
    feed: Iterator[tuple[list[Tensor], list[Target]]],
    steps: int,
    accelerator: Accelerator,
) -> None:
    """Replace batch norm's moving averages by plain means over some batches ("precise BN").

    The means belong to the final weights; the moving averages mix those of earlier steps.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    before = [m.momentum for m in norms]
    model.train()
    for step, (images, targets) in zip(range(steps), feed, strict=False):
        for norm in norms:
            norm.momentum = 1 / (step + 1)
        with accelerator.autocast():
            model(images, targets)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum


def batches(
    dataset: DetectionDataset,
    schedule: DetectionSchedule,
    accelerator: Accelerator,
    *,
    seed: int,
    workers: int,
) -> Batches:
    """Yield this process's share of steps 0, 1, ..., on the device, without end.

    Images are (3, h, w) in [0, 1]. Labels count from 1; 0 is the background.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    rows = dataset.rows_to_learn()
    sampler = Sampler(len(rows), schedule.batch_size, seed, rank, world)
    own = slice(rank * len(sampler.rows(0)), (rank + 1) * len(sampler.rows(0)))
    waiting: deque[list[Future[tuple[Tensor, Target]]]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for step in itertools.count():
            mirrored = np.random.default_rng([seed, step]).random(schedule.batch_size) < 0.5
            numbers = rows[sampler.rows(step)]
            waiting.append(
                [
                    pool.submit(dataset.example, int(row), bool(flip))
                    for row, flip in zip(numbers, mirrored[own], strict=True)
                ]
            )
            if len(waiting) > AHEAD:
                loaded = [future.result() for future in waiting.popleft()]
                images = [to_float(image, accelerator.device) for image, _ in loaded]
                targets = [
                    {name: value.to(accelerator.device) for name, value in target.items()}
                    for _, target in loaded
                ]
                yield images, targets
    finally:
        pool.shutdown(cancel_futures=True)


def to_float(image: Tensor, device: torch.device) -> Tensor:
    """Move a uint8 image to the device and scale it to [0, 1]."""
    return image.to(device).float() / 255
