"""Linear probes: layers trained on the same features, one for each learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from tools.scoring import accuracy
from tools.scoring.plan import HeadPlan


class Heads:
    """Linear layers that are trained on the same batches and do not affect each other.

    All start from the same weights, drawn from N(0, 0.01) by ``generator``, and zero biases.
    """

    def __init__(
        self,
        width: int,
        num_classes: int,
        lrs: Sequence[float],
        plan: HeadPlan,
        steps_per_epoch: int,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        self._lrs, self._plan, self._steps_per_epoch = tuple(lrs), plan, steps_per_epoch
        first = torch.empty(num_classes, width).normal_(std=0.01, generator=generator)
        self._layers = nn.ModuleList(nn.Linear(width, num_classes) for _ in lrs)
        for layer in self._layers:
            assert isinstance(layer, nn.Linear)
            layer.weight.data.copy_(first)
            nn.init.zeros_(layer.bias)
        self._layers.to(device)
        groups = [{"params": layer.parameters()} for layer in self._layers]
        self._optimizer: torch.optim.Optimizer
        if plan.optimizer == "adam":
            self._optimizer = torch.optim.Adam(groups, weight_decay=plan.weight_decay)
        else:
            self._optimizer = torch.optim.SGD(
                groups, momentum=plan.momentum, weight_decay=plan.weight_decay
            )
        self._step = 0

    def step(self, x: Float[Tensor, "n d"], y: Int[Tensor, " n"]) -> None:
        """Train every layer for one step on the features ``x`` and their labels ``y``."""
        for lr, group in zip(self._lrs, self._optimizer.param_groups, strict=True):
            group["lr"] = self._plan.rate(lr, self._step, self._steps_per_epoch)
        self._optimizer.zero_grad(set_to_none=True)
        for layer in self._layers:
            F.cross_entropy(layer(x), y).backward()
        self._optimizer.step()
        self._step += 1

    @torch.no_grad()
    def scores(self, x: Float[Tensor, "n d"]) -> list[Tensor | None]:
        """Return each layer's class scores (n, classes); None for one that diverged."""
        every = [layer(x) for layer in self._layers]
        return [scores if bool(scores.isfinite().all()) else None for scores in every]


def fit(
    x: Float[Tensor, "m d"],
    y: Int[Tensor, " m"],
    num_classes: int,
    lrs: Sequence[float],
    plan: HeadPlan,
    seed: int,
) -> Heads:
    """Train a layer for each learning rate on features in memory, shuffled in each epoch.

    The last batch of an epoch may be short. Equal seeds give equal layers.
    """
    generator = torch.Generator().manual_seed(seed)
    steps = math.ceil(len(x) / plan.batch_size)
    heads = Heads(x.shape[1], num_classes, lrs, plan, steps, generator, x.device)
    for _ in range(plan.epochs):
        shuffled = torch.randperm(len(x), generator=generator).to(x.device)
        for rows in shuffled.split(plan.batch_size):
            heads.step(x[rows], y[rows])
    return heads


def linear_sweep(
    train_features: Float[Tensor, "m d"],
    train_labels: Int[Tensor, " m"],
    val_features: Float[Tensor, "n d"],
    val_labels: Int[Tensor, " n"],
    *,
    lrs: Sequence[float],
    plan: HeadPlan,
    seed: int = 0,
) -> dict[float, dict[str, float]]:
    """Train a linear layer for each learning rate on raw features; return each layer's scores.

    Scores are those after the last epoch, not the best one. Layers that diverge are left out.

    Raises:
        ValueError: a set has no labels, or all layers diverged.

    Source: He 2020, arXiv:1911.05722, section 4.1; Caron 2020, arXiv:2006.09882.
    """
    accuracy.check_labels(train_labels, val_labels)
    num_classes = accuracy.num_classes(train_labels, val_labels)
    x, y = accuracy.labeled(train_features.float(), train_labels)
    heads = fit(x, y, num_classes, lrs, plan, seed)
    return linear_scores(heads, lrs, val_features, val_labels)


def linear_scores(
    heads: Heads,
    lrs: Sequence[float],
    val_features: Float[Tensor, "n d"],
    val_labels: Int[Tensor, " n"],
) -> dict[float, dict[str, float]]:
    """Return ``linear_top1``, ``linear_top5`` and ``linear_confidence`` of each layer.

    A layer that diverged is left out.

    Raises:
        ValueError: all layers diverged.
    """
    x, y = accuracy.labeled(val_features.float(), val_labels)
    every = {
        lr: {
            **{
                f"linear_{name}": value for name, value in accuracy.topk_accuracy(scores, y).items()
            },
            "linear_confidence": accuracy.confidence(scores),
        }
        for lr, scores in zip(lrs, heads.scores(x), strict=True)
        if scores is not None
    }
    if not every:
        rates = " ".join(f"{lr:g}" for lr in lrs)
        raise ValueError(f"the linear probe diverged: --lr {rates} is too high for these features")
    return every
