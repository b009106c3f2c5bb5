"""Running statistics of batch norm when a step is computed in micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

T = TypeVar("T")


@torch.no_grad()
def average_running_stats(module: nn.Module, parts: Sequence[T]) -> Iterator[T]:
    """Yield micro-batches; the running statistics end as if they had been one batch.

    Before each part they are reset to their values at the start, and in the end they become the
    mean of the values after each part. This is exact: they are linear in the batch statistics, and
    the statistics of a batch are the mean over its groups.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    buffers = [b for m in norms for b in m.buffers()]
    start = [b.clone() for b in buffers]
    totals = [torch.zeros_like(b) for b in buffers]
    for part in parts:
        for buffer, value in zip(buffers, start, strict=True):
            buffer.copy_(value)
        yield part
        for total, buffer in zip(totals, buffers, strict=True):
            total.add_(buffer)
    for buffer, total in zip(buffers, totals, strict=True):
        buffer.copy_(total / len(parts))  # num_batches_tracked is equal after all parts
