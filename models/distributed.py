"""Collectives that are the identity in a single process.

Rank r holds the r-th slice of the global batch, so rank order is position order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipelines.batch import to_device


def world_size() -> int:
    """Return the number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number, below ``world_size()``; 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def own_rows(n: int, device: torch.device) -> Int[Tensor, " n"]:
    """Return the places of this rank's ``n`` rows in the result of ``gather``."""
    return torch.arange(rank() * n, (rank() + 1) * n, device=device)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        rows = x.new_empty(world_size() * x.shape[0], *x.shape[1:])
        dist.all_gather_into_tensor(rows, x.contiguous())
        return rows

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(world_size())[rank()]


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def gather(x: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "m ..."]:
    """Return all ranks' rows, concatenated in position order, (world * n, ...).

    Differentiable: the gradient of a row is the sum of its gradients from all ranks' losses. The
    mean over ranks of the parameters' gradients is then that of one process on the whole batch.
    """
    return x if world_size() == 1 else _Gather.apply(x)


def all_reduce_sum(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the sum of ``x`` over the ranks; differentiable: the backward is the same sum."""
    return x if world_size() == 1 else _AllReduceSum.apply(x)


@torch.no_grad()
def exchange(x: Shaped[Tensor, "n ..."], order: np.ndarray) -> Shaped[Tensor, "n ..."]:
    """Return this rank's slice of the global rows in ``order``; no gradient.

    With G the concatenation of all ranks' rows, row i of the result is ``G[order[rank * n + i]]``.
    Each row is sent to one rank only. ``exchange(y, np.argsort(order))`` is the inverse. Images in
    channels_last format keep it.

    Args:
        x: this rank's rows; every rank has the same number.
        order: a permutation of ``world * n`` row numbers, the same on every rank.
    """
    n, here = x.shape[0], rank()
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return _exchange(x.permute(0, 2, 3, 1), order, n, here).permute(0, 3, 1, 2)
    return _exchange(x, order, n, here)


def _exchange(x: Tensor, order: np.ndarray, n: int, here: int) -> Tensor:
    if world_size() == 1:
        return x[to_device(torch.from_numpy(order), x.device)]
    source = order // n  # the rank from which each place of the result is filled
    target = np.arange(len(order)) // n
    send = np.flatnonzero(source == here)  # places of own rows, ascending, so by target rank
    from_rank = source[here * n : (here + 1) * n]
    arrival = np.argsort(from_rank, kind="stable")  # rows arrive by source rank, then by place
    outbox = x[to_device(torch.from_numpy(order[send] - here * n), x.device)]
    inbox = torch.empty_like(x, memory_format=torch.contiguous_format)
    dist.all_to_all_single(
        inbox,
        outbox.contiguous(),
        np.bincount(from_rank, minlength=world_size()).tolist(),
        np.bincount(target[send], minlength=world_size()).tolist(),
    )
    return inbox[to_device(torch.from_numpy(np.argsort(arrival)), x.device)]


@torch.no_grad()
def average_buffers(module: nn.Module) -> None:
    """Replace each batch norm's running statistics by their mean over the ranks, in place.

    Call this on every rank before evaluating or saving. Running statistics are linear in the batch
    statistics, so averaging them now equals averaging at each step; a second call changes nothing.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    buffers = [b for m in norms for b in (m.running_mean, m.running_var) if b is not None]
    if world_size() == 1 or not buffers:
        return
    flat = torch.cat(buffers)
    dist.all_reduce(flat)
    flat /= world_size()
    means = torch.split(flat, [len(b) for b in buffers])
    for buffer, mean in zip(buffers, means, strict=True):
        buffer.copy_(mean)
