"""Plain PyTorch for the five CUDA kernels under ``nn.SyncBatchNorm``, which the host lacks.

Written from their contract; each refuses what the kernel would. ``calls`` lists their names.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor


def install(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put the stand-ins into ``torch``; return the list to which they add their names."""
    calls: list[str] = []

    def named(function: object, name: str) -> object:
        def call(*args: object) -> object:
            calls.append(name)
            return function(*args)  # type: ignore[operator]

        return call

    for name, function in KERNELS.items():
        monkeypatch.setattr(torch, name, named(function, name))
    return calls


def like(channel: Tensor, x: Tensor) -> Tensor:
    return channel.view(1, -1, *[1] * (x.ndim - 2))


def dims(x: Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]


def stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(x.float(), dims(x), correction=0)
    return mean, (var + eps).rsqrt()


def gather(
    x: Tensor, means: Tensor, rstds: Tensor, running_mean: Tensor, running_var: Tensor,
    momentum: float, eps: float, counts: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    assert means.shape == rstds.shape == (len(counts), x.shape[1])
    assert means.dtype == rstds.dtype == torch.float32 and counts.dtype == running_mean.dtype
    share = (counts / counts.sum())[:, None]
    mean = (means * share).sum(0)
    var = ((rstds**-2 - eps + (means - mean).square()) * share).sum(0)
    total = counts.sum()
    running_mean.mul_(1 - momentum).add_(momentum * mean)
    running_var.mul_(1 - momentum).add_(momentum * var * total / (total - 1))
    return mean, (var + eps).rsqrt()


def elemt(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, rstd: Tensor, eps: float
) -> Tensor:
    assert (weight is None) == (bias is None)
    y = (x.float() - like(mean, x)) * like(rstd, x)
    if weight is not None and bias is not None:
        assert weight.dtype == bias.dtype
        y = y * like(weight.float(), x) + like(bias.float(), x)
    return y.to(x.dtype)


def reduce(
    dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None,
    input_g: bool, weight_g: bool, bias_g: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    assert dy.stride() == x.stride() and dy.dtype == x.dtype and input_g
    sum_dy = dy.float().sum(dims(x))
    sum_dy_xmu = (dy.float() * (x.float() - like(mean, x))).sum(dims(x))
    dtype = mean.dtype if weight is None else weight.dtype
    d_weight = (sum_dy_xmu * rstd).to(dtype) if weight_g else None
    return sum_dy, sum_dy_xmu, d_weight, sum_dy.to(dtype) if bias_g else None


def backward_elemt(
    dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None,
    sum_dy: Tensor, sum_dy_xmu: Tensor, counts: Tensor,
) -> Tensor:  # fmt: skip
    assert counts.dtype == torch.int32 and sum_dy.shape == sum_dy_xmu.shape == mean.shape
    assert weight is None or weight.dtype == mean.dtype
    total = counts.sum()
    dx = dy.float() - like(sum_dy / total, x)
    dx = dx - (x.float() - like(mean, x)) * like(rstd.square() * sum_dy_xmu / total, x)
    scale = rstd if weight is None else rstd * weight
    return (dx * like(scale, x)).to(x.dtype)


KERNELS = {
    "batch_norm_stats": stats,
    "batch_norm_gather_stats_with_counts": gather,
    "batch_norm_elemt": elemt,
    "batch_norm_backward_reduce": reduce,
    "batch_norm_backward_elemt": backward_elemt,
}
