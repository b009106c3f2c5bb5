"""Optimisers by timm's names, and the learning rate as a pure function of the step."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from torch import nn, optim

from models.settings import Schedule


@dataclass(frozen=True)
class LrScale:
    """How a parameter's learning rate follows the run's."""

    share: float = 1.0
    """Its part of the run's rate."""
    scheduled: bool = True
    """Whether it falls with the run's after the warm-up, or keeps to the peak."""


def is_norm_or_bias(name: str, parameter: nn.Parameter) -> bool:
    """Return whether a parameter is a bias or belongs to a norm: what LARS and decay leave out."""
    return parameter.ndim <= 1 or name.endswith(".bias")


def create_optimizer(
    module: nn.Module,
    name: str,
    lr: float,
    weight_decay: float,
    momentum: float = 0.9,
    decay_norm_and_bias: bool = True,
    lr_scale: Callable[[str, nn.Parameter], LrScale] = lambda name, parameter: LrScale(),
) -> optim.Optimizer:
    """Return timm's optimiser ``name`` over the parameters that take a gradient.

    ``momentum`` is SGD with classical momentum (timm's ``sgd`` is Nesterov's); ``lars`` adapts
    only parameters that decay. Parameters of one decay and one ``LrScale`` make a group that keeps
    its ``share`` and ``scheduled``; setting the groups' rates by them is the caller's part.

    Args:
        module: the method.
        name: a timm optimiser name: momentum, lars, adamw, ...
        lr: learning rate for the whole batch.
        weight_decay: L2 penalty (decoupled where the optimiser's name says so).
        momentum: for optimisers that have one.
        decay_norm_and_bias: whether biases and batch norm's parameters decay (and adapt) as well.
        lr_scale: a parameter's rate, by its name and itself.

    Raises:
        ValueError: timm has no such optimiser.
    """
    import timm.optim

    known = timm.optim.list_optimizers()
    if name not in known:
        raise ValueError(f"--optimizer {name}: timm has no such optimiser; it has {known}")
    groups: dict[tuple[float, LrScale], list[nn.Parameter]] = {}
    for key, parameter in module.named_parameters():
        if parameter.requires_grad:
            decays = decay_norm_and_bias or not is_norm_or_bias(key, parameter)
            kind = (weight_decay if decays else 0.0, lr_scale(key, parameter))
            groups.setdefault(kind, []).append(parameter)
    return timm.optim.create_optimizer_v2(
        [
            {"params": members, "weight_decay": decay, **asdict(rate)}
            for (decay, rate), members in groups.items()
        ],
        name,
        lr=lr,
        weight_decay=weight_decay,
        momentum=momentum,
    )


def learning_rate(
    step: int,
    total_steps: int,
    peak: float,
    final: float = 0.0,
    warmup_steps: int = 0,
    schedule: Schedule = "cosine",
    milestones: Sequence[int] = (),
    gamma: float = 0.1,
) -> float:
    """Return the learning rate of step ``step``, counted from 0.

    The first ``warmup_steps`` rise linearly, ``peak (step + 1) / warmup_steps``. Then, with t from
    0 to 1 over the steps left, cosine: ``final + (peak - final) (1 + cos(pi t)) / 2``; step:
    ``peak gamma^(milestones passed)``; constant: ``peak``.

    Args:
        step: 0 to ``total_steps - 1``.
        total_steps: steps of the whole run.
        peak: highest learning rate.
        final: where the cosine ends.
        warmup_steps: steps of the linear rise.
        schedule: cosine, step or constant.
        milestones: the steps at which the rate drops, ascending.
        gamma: the factor of each drop.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant":
        return peak
    if schedule == "step":
        return peak * gamma ** bisect.bisect_right(milestones, step)
    t = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return final + (peak - final) * (1 + math.cos(math.pi * t)) / 2
