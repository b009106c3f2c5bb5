"""Augmentation on a GPU: ``pipelines.augment.reference`` in four Triton kernels.

The crops are read once for the mean of contrast (only rows with contrast) and once for all else.
Each value of the view is written once. Rows with blur are written and read twice more. ``plan``
works out each row's operations on the host, so that the host never waits for the device.
The kernels are imported when a view is augmented, so this module can be imported without Triton.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from pipelines.augment.operations import (
    BEFORE,
    COLUMNS,
    CONTRAST,
    COUNT,
    GRAY,
    HUE,
    MIRRORED,
    MOST,
    NEGLIGIBLE,
    OPS,
    ORIENTATION,
    SLOT,
    SOLARIZE,
    TRANSPOSED,
    UPSIDE_DOWN,
)
from pipelines.augment.params import ViewParams
from pipelines.augment.reference import Images, gaussian_kernels
from pipelines.system.transfer import to_device
from pipelines.views import View

BLOCK = 1024  # pixels, or values, of a program
SIDE = 32  # side of a tile of values in the vertical blur
OPTIONS = {"num_warps": 8, "enable_fp_fusion": True}  # 4 pixels a thread: no register spills


@dataclass(frozen=True, slots=True)
class FusedPlan:
    """The augmentations of one view, with all tensors on the crops' device.

    A row of ``codes`` holds orientation, solarize, the number of operations, how many of them
    precede contrast (all, if there is no contrast), the row's place in ``blur`` or -1, and the
    operations.
    """

    codes: Int[Tensor, "n columns"]
    amounts: Float[Tensor, "n operations"]  # factors; for hue, sixths of the circle
    contrast: Int[Tensor, " c"]  # rows
    blur: Int[Tensor, " b"]  # rows
    kernels: Float[Tensor, "b taps"]
    reaches: Int[Tensor, " b"]  # distance of the outermost tap that is not negligible

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors of the plan."""
        yield from (getattr(self, name) for name in FusedPlan.__slots__)

    def to(self, device: torch.device) -> FusedPlan:
        """Return the plan on ``device``; the host never waits."""
        return FusedPlan(*(to_device(x, device) for x in self.tensors()))


def plan(view: View, params: ViewParams) -> FusedPlan:
    """Encode the augmentations of each row of a view."""
    ops, amounts, count = _operations(view, params)
    has_contrast = (ops == CONTRAST).any(axis=1)
    blur = np.flatnonzero(params.sigma)
    codes = np.zeros((len(ops), COLUMNS), np.int32)
    mirrored, upside_down, transposed = params.orientation()
    codes[:, ORIENTATION] = (
        MIRRORED * mirrored + UPSIDE_DOWN * upside_down + TRANSPOSED * transposed
    )
    codes[:, SOLARIZE], codes[:, COUNT] = params.solarize, count
    codes[:, BEFORE] = np.where(has_contrast, (ops == CONTRAST).argmax(axis=1), count)
    codes[:, SLOT] = -1
    codes[blur, SLOT] = np.arange(len(blur))
    codes[:, OPS:] = ops
    kernels = gaussian_kernels(params.sigma[blur], view)
    reaches = (kernels[:, kernels.shape[1] // 2 + 1 :] >= np.float32(NEGLIGIBLE)).sum(axis=1)
    contrast = np.flatnonzero(has_contrast)
    whole = (x.astype(np.int32) for x in (contrast, blur))
    arrays = (codes, amounts, *whole, kernels, reaches.astype(np.int32))
    return FusedPlan(*map(torch.from_numpy, arrays))


def _operations(
    view: View, params: ViewParams
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Return each row's operations in order, -1 after the last, (n, 5); amounts; numbers."""
    amount = params.factor.copy()
    amount[:, HUE] = 6 * (amount[:, HUE] - np.floor(amount[:, HUE]))
    gray = np.where(params.gray, GRAY, -1)[:, None]
    strong = np.array(view.jitter) != 0
    jitter = np.where(params.jitter[:, None] & strong[params.order], params.order, -1)
    ops = np.concatenate((gray, jitter) if view.gray_first else (jitter, gray), axis=1)
    ops = np.take_along_axis(ops, np.argsort(ops < 0, axis=1, kind="stable"), axis=1)
    padded = np.concatenate((amount, np.zeros((len(ops), 1), np.float32)), axis=1)  # gray: 0
    return ops, np.take_along_axis(padded, ops % MOST, axis=1), (ops >= 0).sum(axis=1)


def augment(
    crops: UInt8[Tensor, "n h w c"],
    plan: FusedPlan,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
) -> Images:
    """Return the augmented view in channels_last memory; ``crops`` are not changed.

    Values differ by at most 1e-5 from those of ``pipelines.augment.reference.augment``, where black
    is 0 and white 1, and have the same bits in every run. ``mean`` and ``std`` normalize values in
    [0, 1].

    Raises:
        ValueError: the number of crops is not the plan's, or they are not square and contiguous.
    """
    from pipelines.augment import triton_kernels as kernels

    n, size = crops.shape[:2]
    if crops.shape != (len(plan.codes), size, size, 3) or not crops.is_contiguous():
        raise ValueError(f"crops {tuple(crops.shape)} are not {len(plan.codes)} square images")
    tiles = -(-size * size // BLOCK)
    scale = tuple(1 / s for s in std)
    shift = tuple(-m / s for m, s in zip(mean, std, strict=True))
    out = torch.empty(crops.shape, dtype=dtype, device=crops.device)
    parts = plan.amounts.new_empty(n, tiles)
    between = plan.amounts.new_empty(2, len(plan.blur), size, size, 3)
    block = {"SIZE": size, "BLOCK": BLOCK, **OPTIONS}
    what = (plan.codes, plan.amounts)
    with torch.cuda.device_of(crops):
        if len(plan.contrast):
            grid = (len(plan.contrast) * tiles,)
            kernels.luma_sums[grid](crops, *what, plan.contrast, parts, **block)
        if n:
            power = 1 << (tiles - 1).bit_length()
            kernels.color[(n * tiles,)](
                crops, *what, parts, out, between[0], scale, shift, **block, TILES=power
            )
        if len(plan.blur):
            taps = {"SIZE": size, "TAPS": plan.kernels.shape[1], **OPTIONS}
            gaussian = (plan.kernels, plan.reaches)
            grid = (len(plan.blur) * -(-size // SIDE) * -(-3 * size // SIDE),)
            kernels.blur_down[grid](*between, *gaussian, **taps, SIDE=SIDE)
            grid = (len(plan.blur) * -(-3 * size * size // BLOCK),)
            kernels.blur_across[grid](
                between[1], out, *gaussian, plan.blur, plan.codes, scale, shift, **taps, BLOCK=BLOCK
            )
    return out.permute(0, 3, 1, 2)


def traffic(view: View, params: ViewParams, dtype: torch.dtype = torch.float32) -> tuple[int, int]:
    """Return the bytes that ``augment`` moves to and from device memory, and the least possible.

    The least is to read each crop and write each view once. Repeated reads from the caches (the
    neighbouring pixels of a blur, a tile's parameters) are counted once.
    """
    todo = plan(view, params)
    pixels = view.size**2
    least = len(todo.codes) * pixels * 3 * (1 + dtype.itemsize)
    tiles = -(-pixels // BLOCK)
    means = len(todo.contrast) * (pixels * 3 + 2 * tiles * 4)  # bytes read; sums written and read
    blurred = len(todo.blur) * pixels * 3 * 4 * 4  # floats, written and read twice
    return least + means + blurred + sum(t.nbytes for t in todo.tensors()), least


def usable() -> bool:
    """Whether what the kernels are compiled with is present."""
    return not why_missing()


def why_missing() -> str:
    """Return what is absent of Triton and what it builds its launcher from; empty: nothing."""
    if find_spec("triton") is None:
        return "the package triton is not installed"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "there is no C compiler (gcc, clang or CC)"
    headers = Path(sysconfig.get_paths()["include"], "Python.h")
    return "" if headers.is_file() else f"{headers} is absent; Python's headers have it"
