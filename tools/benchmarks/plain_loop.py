"""The plain loop of ``tools/bench.py baseline``: MoCo on CIFAR, written by hand.

It has torchvision's transforms of PIL images in the worker processes of a DataLoader with pinned
memory, the momentum encoder with shuffled keys, the queue, autocast and SGD. The layers are
PyTorch's own; split batch norm is written with ``F.batch_norm``, as in MoCo's CIFAR-10 example.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tools.benchmarks.torch_loader import Workers
from tools.benchmarks.torchvision_views import each_view, torchvision_view
from tools.config.config import Config
from tools.config.view_plan import views_of
from tools.distributed.launch import cores_per_process
from tools.engine import build
from tools.engine.data import Data

Batch = Sequence[Tensor]


class SplitBatchNorm(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` within ``num_splits`` parts of the batch: row i is in part i % num_splits.

    Source: He et al. 2020 (arXiv:1911.05722), example on CIFAR-10: parts become channels.
    """

    def __init__(self, num_features: int, eps: float, momentum: float, num_splits: int) -> None:
        super().__init__(num_features, eps, momentum)
        self.num_splits = num_splits

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (n, c, h, w)."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        n, c, h, w = x.shape
        k = self.num_splits
        mean, var = self.running_mean.repeat(k), self.running_var.repeat(k)
        parts = x.reshape(n // k, k * c, h, w)
        weight, bias = self.weight.repeat(k), self.bias.repeat(k)
        y = F.batch_norm(parts, mean, var, weight, bias, True, self.momentum or 0.0, self.eps)
        self.running_mean.copy_(mean.view(k, c).mean(0))
        self.running_var.copy_(var.view(k, c).mean(0))
        return y.reshape(n, c, h, w)


def plain_norms(module: nn.Module, num_splits: int) -> nn.Module:
    """Replace this project's batch norm in ``module`` by PyTorch's, in place; weights are kept."""
    for name, child in module.named_children():
        if not isinstance(child, _BatchNorm):
            plain_norms(child, num_splits)
            continue
        numbers = (child.num_features, child.eps, child.momentum or 0.0)
        norm = nn.BatchNorm2d(*numbers) if num_splits == 1 else SplitBatchNorm(*numbers, num_splits)
        norm.load_state_dict(child.state_dict())
        setattr(
            module, name, norm.to(child.weight.device).requires_grad_(child.weight.requires_grad)
        )
    return module


class PlainLoop:
    """A plain training loop with the network, initial weights and settings of one of our runs.

    The key encoder is updated before it encodes, and keys enter the queue after the step, as in
    MoCo's own code.
    """

    def __init__(self, config: Config, data: Data, accelerator: Accelerator) -> None:
        config, order, method = build.assemble(config, data, accelerator)
        self.device, self.config = accelerator.device, config
        transforms = [
            torchvision_view(view, config.interpolation, data.facts.mean, data.facts.std)
            for view in views_of(config)
        ]
        self.workers = Workers(
            data.train,
            order,
            config.workers or cores_per_process(),
            partial(each_view, transforms=transforms),
            pin=self.device.type == "cuda",
        )
        self.warm, self.tail = max(self.workers.warm, 2), self.workers.tail
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        plain_norms(method, config.groups if config.bn == "group" else 1)
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
        """Train for one step; return the loss."""
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
        """Return unit keys, encoded in shuffled order if batch norm is split."""
        if not self.shuffle:
            return F.normalize(self.key(images))
        order = torch.randperm(len(images), device=self.device)
        return F.normalize(self.key(images[order]))[order.argsort()]

    def run(self, steps: int) -> Iterator[Any]:
        """Return an iterator over an epoch of ``steps`` batches."""
        return self.workers.run(steps)

    def close(self) -> None:
        """End the worker processes."""
        self.workers.close()
