"""Batch norm within groups of rows on a GPU: two Triton kernels forward, two backward.

Activations are read twice and written once, and so is the gradient: twice ``x`` and ``dy``, once
``dx``. By PyTorch, group by group, eight groups take 24 operations, and half as many bytes again.
``group_norm`` is one operation to autograd, and one node to ``torch.compile``
(``unmix::group_norm``). The kernels are imported when they are needed, so this module can be
imported without Triton.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipelines.system.device_path import DevicePath

TILE = 4096
"""Elements of a tile: 16 a thread, as means, squares and values, without register spills."""
WIDTH = 64
"""Largest number of channels of a tile: whole cache lines of 128 bytes in bfloat16."""
PROGRAMS = 1024
"""Programs that keep a GPU of about 130 multiprocessors busy."""
MOST_SPLITS = 32
"""Largest number of chunks of a group, which each program combines."""
OPTIONS = {"num_warps": 8, "enable_fp_fusion": True}

Triple = tuple[Tensor, Tensor, Tensor]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def fits(x: Tensor, groups: int) -> bool:
    """Whether the kernels know the type and memory layout of ``x``; a group needs two values."""
    if x.ndim == 2:
        dense = x.is_contiguous()
    else:
        dense = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return dense and x.dtype in DTYPES and x.numel() >= 2 * groups * x.shape[1] > 0


def group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float
) -> tuple[Tensor, Tensor]:
    """Normalize each channel within each of ``groups`` equal parts of the rows; differentiable.

    Args:
        x: (n, c), or (n, c, h, w) in channels_last memory; float32, bfloat16 or float16.
        weight: (c,), or None for ones.
        bias: (c,), or None for zeros.
        groups: number of groups; divides n.
        eps: added to the variance.

    Returns:
        The result, like ``x``, and the means over the groups of mean and unbiased variance, (2, c).
    """
    # In eager mode a torch.library operation costs the host 20 microseconds more.
    run = _group_norm if torch.compiler.is_compiling() else _GroupNorm.apply
    y, _, batch = run(x, weight, bias, groups, eps)
    return y, batch


class _Launch:
    """How the rows and channels of ``x`` are divided among programs.

    Raises:
        ValueError: the kernels do not know the memory layout of ``x``, and would mix its values up.
    """

    def __init__(self, x: Tensor, groups: int) -> None:
        if not fits(x, groups):
            raise ValueError(f"{groups} groups of {tuple(x.shape)} {x.dtype}, strides {x.stride()}")
        self.channels = x.shape[1]
        self.length = x.numel() // self.channels // groups
        width = min(WIDTH, _power(self.channels))
        height = TILE // width
        tiles = -(-self.channels // width)
        most = min(MOST_SPLITS, -(-self.length // height))
        wanted = max(1, min(most, PROGRAMS // (groups * tiles)))
        self.chunk = -(-self.length // (wanted * height)) * height
        self.splits = -(-self.length // self.chunk)
        self.grid = (groups * self.splits * tiles,)
        self.sizes = (groups, self.length, self.chunk, self.splits, self.channels)
        self.blocks = {"BLOCK_R": height, "BLOCK_C": width}
        self.combining = self.blocks | {"SPLITS": _power(self.splits)}
        self.parts = (2, groups, self.splits, self.channels)
        """Shape of what the chunks found."""


def _power(number: int) -> int:
    """Return the smallest power of two that is at least ``number``."""
    return 1 << (number - 1).bit_length()


def forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float
) -> Triple:
    """Return the result; mean and 1 / std of each group, (2, groups, c); and their means, (2, c).

    The last are the means over the groups of mean and unbiased variance. Both are in float32.
    """
    from models.modules import batchnorm_kernels as kernels

    launch = _Launch(x, groups)
    y = torch.empty_like(x)
    parts = x.new_empty(launch.parts, dtype=torch.float32)
    saved = parts.new_empty(2, groups, launch.channels)
    batch = parts.new_empty(2, launch.channels)
    with torch.cuda.device_of(x):
        kernels.partial_moments[launch.grid](x, parts, *launch.sizes, **launch.blocks, **OPTIONS)
        kernels.normalize[launch.grid](
            x, y, weight, bias, parts, saved, batch, eps, *launch.sizes,
            **launch.combining, **OPTIONS,
        )  # fmt: skip
    return y, saved, batch


def backward(dy: Tensor, x: Tensor, saved: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the gradients of ``x``, and of bias and weight, (2, c) in float32."""
    from models.modules import batchnorm_kernels as kernels

    groups = saved.shape[1]
    launch = _Launch(x, groups)
    if dy.stride() != x.stride():  # for example expanded, after a mean over pixels
        dy = torch.empty_like(x).copy_(dy)
    dx = torch.empty_like(x)
    parts = saved.new_empty(launch.parts)
    sums = saved.new_empty(2, launch.channels)
    with torch.cuda.device_of(x):
        kernels.partial_sums[launch.grid](
            dy, x, saved, parts, *launch.sizes, **launch.blocks, **OPTIONS
        )
        kernels.input_gradient[launch.grid](
            dy, x, dx, weight, saved, parts, sums, *launch.sizes, **launch.combining, **OPTIONS
        )
    return dx, sums


def traffic(x: Tensor, groups: int) -> int:
    """Return the bytes that ``forward`` and ``backward`` move to and from device memory.

    What the chunks of a group found is read by several programs, from the cache, and counted once.
    """
    launch = _Launch(x, groups)
    parts = 4 * 2 * groups * launch.splits * launch.channels  # written and read, each way
    saved = 4 * 2 * groups * launch.channels  # written; read by both kernels of the backward
    channels = 4 * launch.channels * (2 + 2 + 1 + 2)  # parameters and sums of both ways
    return 8 * x.nbytes + 4 * parts + 3 * saved + channels


def plain_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float
) -> Triple:
    """Return what ``forward`` does, by PyTorch's batch norm of each group."""
    ys, saved, batch = [], [], []
    for group in x.chunk(groups):
        mean, var = group.new_zeros(2, x.shape[1], dtype=torch.float32)
        y, *found = torch.native_batch_norm(group, weight, bias, mean, var, True, 1.0, eps)
        ys.append(y)
        saved.append(torch.stack(found))
        batch.append(torch.stack([mean, var]))
    y = torch.empty_like(x).copy_(torch.cat(ys))
    return y, torch.stack(saved, 1).float(), torch.stack(batch).mean(0)


def plain_backward(
    dy: Tensor, x: Tensor, saved: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return what ``backward`` does, by PyTorch's batch norm of each group."""
    groups = saved.shape[1]
    dxs, sums = [], []
    kernel = torch.ops.aten.native_batch_norm_backward
    for grad, group, found in zip(dy.chunk(groups), x.chunk(groups), saved.unbind(1), strict=True):
        given = torch.ones_like(found[0]) if weight is None else weight
        wanted = [True, True, True]
        dx, d_weight, d_bias = kernel(
            grad, group, given, None, None, *found.unbind(), True, 0.0, wanted
        )
        dxs.append(dx)
        sums.append(torch.stack([d_bias, d_weight]).float())
    return torch.empty_like(x).copy_(torch.cat(dxs)), torch.stack(sums).sum(0)


_group_norm = torch.library.custom_op(
    "unmix::group_norm",
    plain_forward,
    mutates_args=(),
    tags=(torch.Tag.needs_exact_strides,),  # inductor must keep channels_last
    schema="(Tensor x, Tensor? weight, Tensor? bias, int groups, float eps)"
    " -> (Tensor, Tensor, Tensor)",
)
_group_norm_backward = torch.library.custom_op(
    "unmix::group_norm_backward",
    plain_backward,
    mutates_args=(),
    tags=(torch.Tag.needs_exact_strides,),  # inductor must keep channels_last
    schema="(Tensor dy, Tensor x, Tensor saved, Tensor? weight) -> (Tensor, Tensor)",
)
_group_norm.register_kernel("cuda", forward)
_group_norm_backward.register_kernel("cuda", backward)


@_group_norm.register_fake
def _(x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float) -> Triple:
    saved = x.new_empty(2, groups, x.shape[1], dtype=torch.float32)
    return torch.empty_like(x), saved, saved.new_empty(2, x.shape[1])


@_group_norm_backward.register_fake
def _(dy: Tensor, x: Tensor, saved: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), saved.new_empty(2, x.shape[1])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Triple) -> None:
    x, weight, bias, _, _ = inputs
    _, saved, batch = output
    ctx.save_for_backward(x, weight, saved)
    ctx.mark_non_differentiable(saved, batch)
    ctx.bias_dtype = None if bias is None else bias.dtype


def _gradients(
    ctx: Any, dy: Tensor, *_: Tensor, run: Callable[..., tuple[Tensor, Tensor]]
) -> tuple[Any, ...]:
    x, weight, saved = ctx.saved_tensors
    dx, sums = run(dy, x, saved, weight)
    d_bias = None if ctx.bias_dtype is None else sums[0].to(ctx.bias_dtype)
    d_weight = None if weight is None else sums[1].to(weight.dtype)
    return dx, d_weight, d_bias, None, None


_group_norm.register_autograd(partial(_gradients, run=_group_norm_backward), setup_context=_save)


class _GroupNorm(torch.autograd.Function):
    """The same operation for eager mode."""

    forward = staticmethod(forward)
    setup_context = staticmethod(_save)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        """Return the gradients of ``x``, weight and bias."""
        return _gradients(ctx, *grads, run=backward)


def _sample(
    device: torch.device, run: Callable[..., Triple], back: Callable[..., Any]
) -> list[Tensor]:
    """Return result, statistics and gradients of three groups, in float32 and bfloat16."""
    generator = torch.Generator().manual_seed(0)
    x, dy = (
        torch.randn(6, 72, 7, 7, generator=generator).to(device, memory_format=torch.channels_last)
        for _ in range(2)
    )
    weight, bias = torch.rand(2, 72, generator=generator).to(device).unbind()
    found = []
    for dtype, share in ((torch.float32, 1.0), (torch.bfloat16, ROUNDED)):
        y, saved, batch = run((3 * x + 4).to(dtype), weight, bias, 3, 1e-5)
        results = [y, saved, batch, *back(dy.to(dtype), (3 * x + 4).to(dtype), saved, weight)]
        found += [share * result.float() for result in results]
    return found


ROUNDED = 2**-8
"""How much a difference in bfloat16 counts in the self-check: one rounding is below 1e-4 then."""

GROUP_NORM = DevicePath(
    "group batch norm",
    fast=lambda device: _sample(device, forward, backward),
    plain=lambda device: _sample(device, plain_forward, plain_backward),
    tolerance=1e-3,  # of sums over 98 values; another order of additions makes 1e-5
    missing=lambda: "" if find_spec("triton") else "the package triton is not installed",
)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator,unused-ignore]
def proved(device: torch.device) -> bool:
    """Whether the kernels have proved themselves on ``device``; compiled code takes it as fixed."""
    return GROUP_NORM.usable(device)
