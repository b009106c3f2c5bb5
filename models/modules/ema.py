"""Exponential moving averages (EMA) of networks: momentum encoders, targets, teachers."""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from timm.layers import DropPath
from torch import nn

M = TypeVar("M", bound=nn.Module)


def momentum_copy(module: M) -> M:
    """Return a copy with equal weights that takes no gradient and drops no path.

    Stochastic depth is the online network's alone (Caron 2021, 2104.14294, released code).
    """
    twin = copy.deepcopy(module).requires_grad_(False)
    for part in twin.modules():
        if isinstance(part, DropPath):
            part.drop_prob = 0.0
    return twin


@torch.no_grad()
def ema_update(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """``target <- momentum * target + (1 - momentum) * online``, parameters only.

    Buffers stay: the target runs in training mode and has batch statistics of its own.
    """
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 1 - momentum)


def cosine_momentum(base: float, progress: float) -> float:
    """Return ``1 - (1 - base) (cos(pi progress) + 1) / 2``, which rises from ``base`` to 1.

    Source: Grill 2020, 2006.07733, section 3.3.

    >>> [round(cosine_momentum(0.996, progress), 4) for progress in (0.0, 0.5, 1.0)]
    [0.996, 0.998, 1.0]
    """
    return 1 - (1 - base) * (math.cos(math.pi * progress) + 1) / 2
