"""Batch norm whose statistics are those of all ranks' rows: PyTorch's CUDA kernels, and plain code.

Each forward has one gather, each backward one sum over the ranks, and neither waits for the device:
``nn.SyncBatchNorm`` does, in every layer (pytorch#78549). Every rank has as many values a channel.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models import distributed
from models.losses.common import widen
from pipelines.system.device_path import DevicePath


@runtime_checkable
class Ranks(Protocol):
    """The processes that share statistics; ``models.distributed`` is the real one."""

    def world_size(self) -> int:
        """Return their number."""

    def gather(self, x: Tensor) -> Tensor:
        """Return all ranks' rows, concatenated."""

    def all_reduce_sum(self, x: Tensor) -> Tensor:
        """Return the sum over the ranks."""


class SyncNorm(torch.autograd.Function):
    """``(x - mean) / sqrt(var + eps) * weight + bias`` with the statistics of all ranks' rows.

    The ranks' means and variances are gathered and combined (Chan et al. 1979), which is stable
    where sums of squares are not. The backward needs one sum over the ranks, and of the activations
    it keeps ``x`` alone.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        ranks: Ranks = distributed,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the result, like ``x`` (n, c, ...), and mean and variance (c,)."""
        wide = widen(x)
        var, mean = torch.var_mean(wide, [0, *range(2, x.ndim)], correction=0)  # (c,)
        both = ranks.gather(torch.stack([mean, var])[None])  # (world, 2, c)
        means, variances = both.unbind(1)
        mean = means.mean(0)
        var = (variances + (means - mean).square()).mean(0)
        scale = (var + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.ranks = ranks
        ctx.mark_non_differentiable(mean, var)
        y = (wide - _as(mean, x)) * _as(scale * weight, x) + _as(bias, x)
        return y.to(x.dtype), mean, var

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of ``x``, weight and bias."""
        x, weight, mean, scale = ctx.saved_tensors
        dims = [0, *range(2, x.ndim)]
        grad = grad.to(mean.dtype)
        normed = (x.to(mean.dtype) - _as(mean, x)) * _as(scale, x)
        d_bias = grad.sum(dims)
        d_weight = (grad * normed).sum(dims)
        total = ctx.ranks.all_reduce_sum(torch.stack([d_bias, d_weight]))
        total = total / (x.numel() // x.shape[1] * ctx.ranks.world_size())
        d_x = (grad - _as(total[0], x) - normed * _as(total[1], x)) * _as(scale * weight, x)
        dtype = weight.dtype
        return d_x.to(x.dtype), d_weight.to(dtype), d_bias.to(dtype), None, None


def _as(channel: Tensor, x: Tensor) -> Tensor:
    """Return one number per channel, shaped to broadcast with ``x`` (n, c, ...)."""
    return channel.view(1, -1, *[1] * (x.ndim - 2))


def fits(x: Tensor) -> bool:
    """Whether PyTorch's kernels know the type and memory layout of ``x``."""
    dense = x.is_contiguous() or (
        x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    )
    return dense and x.dtype in (torch.float32, torch.bfloat16, torch.float16) and x.numel() > 0


class NativeSyncNorm(torch.autograd.Function):
    """The same by the five CUDA kernels under ``nn.SyncBatchNorm``; moves the running statistics.

    Activations are read twice and written once, and so is the gradient. The ranks exchange each
    channel's mean and 1 / std forward, and its two sums backward.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running: tuple[Tensor, Tensor],
        momentum: float,
        eps: float,
        ranks: Ranks = distributed,
    ) -> Tensor:
        """Return the result; ``running`` is moved towards the mean and the unbiased variance."""
        world, channels = ranks.world_size(), x.shape[1]
        here = torch.stack(torch.batch_norm_stats(x, eps))  # mean and 1 / std, (2, c)
        means, rstds = ranks.gather(here[None]).unbind(1)  # (world, c) each
        counts = here.new_full((world,), x.numel() // channels)
        mean, rstd = torch.batch_norm_gather_stats_with_counts(
            x, means, rstds, *running, momentum, eps, counts.to(running[0].dtype)
        )
        ctx.save_for_backward(x, weight, mean, rstd, counts.int())
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.ranks = ranks
        if weight is not None and bias is None:
            bias = torch.zeros_like(weight)
        y: Tensor = torch.batch_norm_elemt(x, weight, bias, mean, rstd, eps)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of ``x``, weight and bias."""
        x, weight, mean, rstd, counts = ctx.saved_tensors
        if dy.stride() != x.stride():  # for example expanded, after a mean over pixels
            dy = torch.empty_like(x).copy_(dy)
        learned = weight is not None
        *sums, d_weight, d_bias = torch.batch_norm_backward_reduce(
            dy, x, mean, rstd, weight, True, learned, learned
        )
        total = ctx.ranks.all_reduce_sum(torch.stack(sums))  # (2, c)
        sum_dy, sum_dy_xmu = total.unbind()  # of dy, and of dy * (x - mean)
        wide = weight.to(mean.dtype) if learned else None
        dx = torch.batch_norm_backward_elemt(dy, x, mean, rstd, wide, sum_dy, sum_dy_xmu, counts)
        return (
            dx,
            d_weight.to(weight.dtype) if learned else None,
            d_bias.to(ctx.bias_dtype) if learned and ctx.bias_dtype is not None else None,
            *[None] * 4,
        )


class TwoRanks:
    """Stands in for two processes, where there is one: in the self-check and the benchmark.

    The other rank's values are those of this one plus ``apart``, its gradients the same.
    """

    def __init__(self, apart: float = 0.0) -> None:
        self.apart = apart

    def world_size(self) -> int:
        """Return 2."""
        return 2

    def gather(self, x: Tensor) -> Tensor:
        """Return means and scales (1, 2, c) of both ranks, (2, 2, c)."""
        other = x.clone()
        other[:, 0] += self.apart
        return torch.cat([x, other])

    def all_reduce_sum(self, x: Tensor) -> Tensor:
        """Return twice ``x``."""
        return x * 2


def _sample(device: torch.device, native: bool) -> list[Tensor]:
    """Return result, statistics and gradients of a small batch that two ranks share."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 24, 5, 5, generator=generator).to(memory_format=torch.channels_last)
    x = (3 * x + 4).to(device).requires_grad_()
    dy = torch.randn(6, 24, 5, 5, generator=generator).to(x.device)
    weight = torch.rand(24, generator=generator).to(x.device).requires_grad_()
    bias = torch.zeros_like(weight).requires_grad_()
    mean, var = torch.zeros_like(bias, requires_grad=False), torch.ones_like(weight).detach()
    ranks = TwoRanks(apart=1.0)
    with torch.enable_grad():
        if native:
            y = NativeSyncNorm.apply(x, weight, bias, (mean, var), 0.1, 1e-5, ranks)
        else:
            y, batch_mean, batch_var = SyncNorm.apply(x, weight, bias, 1e-5, ranks)
            mean.lerp_(batch_mean, 0.1)
            var.lerp_(batch_var * (300 / 299), 0.1)  # of 300 values a channel
        return [y, mean, var, *torch.autograd.grad(y, (x, weight, bias), dy)]


SYNC_NORM = DevicePath(
    "sync batch norm",
    fast=lambda device: _sample(device, native=True),
    plain=lambda device: _sample(device, native=False),
    tolerance=1e-3,  # of sums over 150 values; another order of additions makes 1e-5
    together=True,
)
