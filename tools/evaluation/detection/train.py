"""Train a detector: SGD over shuffled pictures, mirrored at random."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipelines.sampler import Sampler
from tools.evaluation.detection.examples import Examples, Pixels
from tools.evaluation.detection.plan import MOMENTUM, WEIGHT_DECAY, DetectionSchedule

Targets = list[dict[str, Tensor]]
Loaded = tuple[Pixels, NDArray[np.float32], NDArray[np.int64]]

AHEAD = 3
"""Steps whose pictures are read before they are needed."""


def train(
    model: nn.Module,
    examples: Examples,
    plan: DetectionSchedule,
    accelerator: Accelerator,
    *,
    seed: int,
    workers: int,
    say: Callable[[str], None],
) -> float | None:
    """Train in place; return the loss of the last steps, None without steps.

    Which pictures a step holds and which are mirrored depends on (seed, step) alone. torchvision
    draws sides and regions from torch's generator, which is seeded for each process.

    Raises:
        ValueError: the pictures do not fill a batch, a file cannot be read, or the loss is not
            finite.
    """
    torch.manual_seed(seed * accelerator.num_processes + accelerator.process_index)
    trained, optimizer = accelerator.prepare(model, sgd(model, plan.lr))
    trained.train()
    feed = batches(examples, plan, accelerator, seed=seed, workers=workers)
    every, recent, mean = max(plan.steps // 10, 1), [], None
    for step, (images, targets) in zip(range(plan.steps), feed, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(step)
        terms = trained(images, targets)
        loss = torch.stack(list(terms.values())).sum()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent.append(loss.detach())
        if (step + 1) % every == 0 or step + 1 == plan.steps:
            mean = float(accelerator.reduce(torch.stack(recent).mean(), "mean"))
            if not np.isfinite(mean):
                raise ValueError(f"the loss is {mean} by step {step + 1}: lower --lr ({plan.lr:g})")
            say(f"step {step + 1:,}/{plan.steps:,}  loss {mean:.3f}  lr {plan.rate(step):.2g}")
            recent.clear()
    if plan.steps:
        settle_norms(model, feed, plan.precise_bn, accelerator)
    feed.close()
    return mean


def sgd(model: nn.Module, lr: float) -> torch.optim.SGD:
    """Return SGD with momentum; norms are not decayed (as detectron2 does)."""
    norms = [p for m in model.modules() if isinstance(m, _BatchNorm) for p in m.parameters()]
    known = {id(p) for p in norms}
    others = [p for p in model.parameters() if id(p) not in known]
    groups = [
        {"params": others, "weight_decay": WEIGHT_DECAY},
        {"params": norms, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=lr, momentum=MOMENTUM)


@torch.no_grad()
def settle_norms(
    model: nn.Module,
    feed: Iterator[tuple[list[Tensor], Targets]],
    steps: int,
    accelerator: Accelerator,
) -> None:
    """Replace batch norm's moving averages by plain means over some batches ("precise BN").

    The weights have moved while the averages were taken; these are of the weights as they are.
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
    examples: Examples,
    plan: DetectionSchedule,
    accelerator: Accelerator,
    *,
    seed: int,
    workers: int,
) -> Generator[tuple[list[Tensor], Targets], None, None]:
    """Yield this process's share of step 0, 1, ..., on the device, without end.

    Pictures are (3, h, w) in [0, 1]; labels count from 1, 0 being the background.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    rows = examples.with_objects()
    order = Sampler(len(rows), plan.batch_size, seed, rank, world)
    share = plan.batch_size // world
    device = accelerator.device

    def ask(pool: ThreadPoolExecutor, step: int) -> list[Future[Loaded]]:
        mirrored = np.random.default_rng([seed, step]).random(plan.batch_size) < 0.5
        own = mirrored[rank * share : (rank + 1) * share]
        numbers = rows[order.rows(step)]
        return [
            pool.submit(load, examples, int(row), bool(flip))
            for row, flip in zip(numbers, own, strict=True)
        ]

    with ThreadPoolExecutor(workers) as pool:
        waiting = deque(ask(pool, step) for step in range(AHEAD))
        step = AHEAD
        try:
            while True:
                loaded = [future.result() for future in waiting.popleft()]
                waiting.append(ask(pool, step))
                step += 1
                images = [to_tensor(pixels, device) for pixels, _, _ in loaded]
                targets = [
                    {
                        "boxes": torch.from_numpy(boxes).to(device),
                        "labels": torch.from_numpy(labels + 1).to(device),
                    }
                    for _, boxes, labels in loaded
                ]
                yield images, targets
        finally:
            pool.shutdown(cancel_futures=True)


def load(examples: Examples, row: int, mirrored: bool) -> Loaded:
    """Return a picture with the boxes (n, 4) and labels (n,) to learn, mirrored or not."""
    pixels = examples.pixels(row)
    boxes, labels = examples.objects[row].to_learn(*pixels.shape[:2])
    return (*mirror(pixels, boxes), labels) if mirrored else (pixels, boxes, labels)


def mirror(pixels: Pixels, boxes: NDArray[np.float32]) -> tuple[Pixels, NDArray[np.float32]]:
    """Exchange left and right of a picture and of its boxes (n, 4)."""
    left, top, right, bottom = boxes.T
    width = np.float32(pixels.shape[1])
    turned = np.stack([width - right, top, width - left, bottom], axis=1)
    return np.ascontiguousarray(pixels[:, ::-1]), turned


def to_tensor(pixels: Pixels, device: torch.device) -> Tensor:
    """Return a picture (h, w, 3) of bytes as (3, h, w) in [0, 1], on the device."""
    return torch.tensor(pixels).to(device).permute(2, 0, 1).float() / 255
