"""Running statistics of a step that is computed in micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

T = TypeVar("T")


@torch.no_grad()
def from_one_start(module: nn.Module, parts: Sequence[T]) -> Iterator[T]:
    """Yield the parts; batch norms' running statistics end as if all had been one batch.

    They start at the same point for each part and end at the mean of where they came to: they are
    linear in the batches' statistics, and those of a batch are the mean over its groups.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    buffers = [b for m in norms for b in m.buffers()]
    start = [b.clone() for b in buffers]
    total = [torch.zeros_like(b) for b in buffers]
    for part in parts:
        for buffer, value in zip(buffers, start, strict=True):
            buffer.copy_(value)
        yield part
        for sum_, buffer in zip(total, buffers, strict=True):
            sum_.add_(buffer)
    for buffer, sum_ in zip(buffers, total, strict=True):
        buffer.copy_(sum_ / len(parts))  # a count of batches is the same for all
