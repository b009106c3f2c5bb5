"""The plain loop of ``tools/bench.py baseline``: MoCo on CIFAR as a user writes it by hand.

torchvision's transforms of PIL images in the worker processes of a DataLoader with pinned memory,
the momentum encoder with shuffled keys, the queue, autocast and SGD.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torchvision.transforms import v2

from pipelines.views import View
from tools.benchmarks.contenders import Setting, Workers, each_view
from tools.config.config import Config
from tools.config.view_plan import views_of
from tools.distributed.launch import cores_per_process
from tools.engine import build
from tools.engine.throughput import ThroughputMeter

Batch = Sequence[Tensor]


def transform(view: View, mean: Sequence[float], std: Sequence[float]) -> v2.Compose:
    """What torchvision's manual does to a PIL image for this view."""
    assert not view.blur, "the CIFAR recipe has no blur"
    assert not view.solarize, "nor does it solarize"
    return v2.Compose([
        v2.RandomResizedCrop(view.size, view.scale, view.ratio),
        v2.RandomHorizontalFlip(view.flip),
        v2.RandomApply([v2.ColorJitter(*view.jitter)], view.jitter_prob),
        v2.RandomGrayscale(view.gray),
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(list(mean), list(std)),
    ])  # fmt: skip


class PlainLoop:
    """A network and settings of ours in a loop of its own; the weights are those a run starts at.

    Keys follow before they are made and enter the queue after the step, as in MoCo's own code.
    """

    def __init__(self, config: Config, data: build.Data, accelerator: Accelerator) -> None:
        config, order, method = build.assemble(config, data, accelerator)
        self.device, self.config = accelerator.device, config
        on_gpu = self.device.type == "cuda"
        views, facts = views_of(config), data.facts
        setting = Setting(
            data.train, None, np.empty(0, np.int64), order, views, True, config.interpolation,
            config.workers or cores_per_process(),
        )  # fmt: skip
        transforms = [transform(view, facts.mean, facts.std) for view in views]
        self.workers = Workers(setting, partial(each_view, transforms=transforms), pin=on_gpu)
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        method.to(self.device).to(memory_format=layout).train()
        self.layout = layout
        self.query = nn.Sequential(method.backbone, method.head)
        self.key: nn.Module = method.key_encoder  # type: ignore[assignment]
        lr, momentum, decay = config.lr, config.momentum, config.weight_decay
        assert lr is not None and momentum is not None and decay is not None
        self.optimizer = torch.optim.SGD(self.query.parameters(), lr, momentum, weight_decay=decay)
        self.queue = F.normalize(
            torch.randn(config.chosen.dim, config.chosen.queue, device=self.device), dim=0
        )
        self.at, self.moco = 0, config.chosen
        self.shuffle = config.bn == "group"
        self.autocast = partial(
            torch.autocast, self.device.type, torch.bfloat16, config.precision == "bf16"
        )

    def train_on(self, batch: Batch) -> Tensor:
        """Make one step; the loss."""
        x0, x1 = (
            x.to(self.device, non_blocking=True).contiguous(memory_format=self.layout)
            for x in batch
        )
        with torch.no_grad():
            for k, q in zip(self.key.parameters(), self.query.parameters(), strict=True):
                k.lerp_(q, 1 - self.moco.momentum)
        with self.autocast():
            with torch.no_grad():
                keys = self._keys(x1)
            queries = F.normalize(self.query(x0))
            positive = (queries * keys).sum(1, keepdim=True)
            logits = torch.cat([positive, queries @ self.queue], 1) / self.moco.temperature
            loss = F.cross_entropy(logits, torch.zeros(len(x0), dtype=torch.long, device=x0.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.queue[:, self.at : self.at + len(keys)] = keys.T
        self.at = (self.at + len(keys)) % self.moco.queue
        return loss.detach()

    def _keys(self, images: Tensor) -> Tensor:
        """Unit keys, encoded in shuffled groups where batch norm is split."""
        if not self.shuffle:
            return F.normalize(self.key(images))
        order = torch.randperm(len(images), device=self.device)
        return F.normalize(self.key(images[order]))[order.argsort()]

    def images_per_second(self, steps: int, work: Callable[[Batch], Any] | None) -> float:
        """Source images/s when each batch is given to ``work``, or dropped."""
        warm = max(self.workers.warm, 2)
        batches: Iterable[Any] = self.workers.run(warm + steps + self.workers.tail)
        meter = ThroughputMeter(self.config.batch_size, lambda: 0.0, self.device, warmup=warm)
        rate = 0.0
        for number, batch in enumerate(batches, 1):  # the tail keeps the workers busy, no more
            if number <= warm + steps:
                if work is not None:
                    work(batch)
                meter.step()
            if number == warm + steps:
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                rate = meter.read()["images_per_second"]
        return rate

    def close(self) -> None:
        """End the worker processes."""
        self.workers.close()
