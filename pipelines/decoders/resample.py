"""Crop, then resize, with one of four filters: as compiled code and as weight matrices.

An axis of ``length`` pixels becomes ``size`` pixels: output ``i`` has its centre at
``c = (i + 0.5) * s`` with ``s = length / size``, and takes pixel ``k`` of the box with the weight

    antialias   triangle(u / max(s, 1))            PIL's BILINEAR: the triangle widens on shrinking
    bicubic     cubic(u / max(s, 1)), a = -0.5     PIL's BICUBIC
    bilinear    triangle(u)                        two taps, no antialiasing
    area        overlap of [k, k + 1] with         OpenCV's INTER_AREA
                [i * s, (i + 1) * s]

where ``u = |k + 0.5 - c|``, divided by the sum of the weights. Pixels outside the box are not used,
as if PIL crops before it resizes. Both passes run in float32 with one rounding at the end.

The compiled form does the vertical pass first: a row of the output adds up its source rows in
contiguous loops over ``3 * width`` bytes, and the slower horizontal pass reads that row from the
first-level cache. It runs on ``size`` rows for any box, so enlarging costs no more than shrinking.
The horizontal pass reads a pixel's red, green and blue and the next pixel's red as one vector of
four. It has a loop for each usual number of taps, without a branch that depends on the pixel.
"""

from __future__ import annotations

from typing import Final, no_type_check

import numpy as np
import torch
from jaxtyping import Float, Int
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from pipelines.settings import Interpolation
from pipelines.system.jit import jit

FILTER_IDS: Final[dict[Interpolation, int]] = {
    "antialias": 0,
    "bicubic": 1,
    "bilinear": 2,
    "area": 3,
}
"""The number of each filter in compiled code."""


@jit
@no_type_check
def support(filter_id, scale):
    """Return half the width of the filter, in pixels of the box."""
    if filter_id == 2:
        return 1.0
    if filter_id == 3:
        return (scale + 1) / 2
    return max(scale, 1.0) * (2 if filter_id == 1 else 1)


@jit
@no_type_check
def weight(filter_id, u, scale):
    """Return the unnormalized weight of a pixel whose centre is ``u`` pixels away."""
    if filter_id == 3:
        return min(max((scale + 1) / 2 - u, 0.0), min(scale, 1.0))
    if filter_id != 2:
        u /= max(scale, 1.0)
    if filter_id != 1:
        return max(1 - u, 0.0)
    if u < 1:
        return (1.5 * u - 2.5) * u * u + 1
    return ((-0.5 * u + 2.5) * u - 4) * u + 2 if u < 2 else 0.0


@jit
@no_type_check
def filter_weights(length, size, filter_id):
    """Return where the source pixels of each output begin and end, and their weights.

    Returns:
        ``begin`` and ``end`` (size,) into the box; ``weights`` (size, 2 or more) float32, 0 beyond
        ``end - begin``.
    """
    scale = length / size
    reach = support(filter_id, scale)
    begin = np.empty(size, np.int64)
    end = np.empty(size, np.int64)
    weights = np.zeros((size, max(min(length, int(2 * reach) + 2), 2)), np.float32)
    for i in range(size):
        center = (i + 0.5) * scale
        first = max(int(center - reach + 0.5), 0)
        last = min(max(int(center + reach + 0.5), first + 1), length)
        total = 0.0
        for k in range(first, last):
            total += weight(filter_id, abs(k + 0.5 - center), scale)
        for k in range(first, last):
            weights[i, k - first] = weight(filter_id, abs(k + 0.5 - center), scale) / total
        begin[i], end[i] = first, last
    return begin, end, weights


@jit
@no_type_check
def gather_down(pixels, top, left, begin, end, weights, row):
    """Blend source rows ``top + begin`` to ``top + end``, from ``left`` on, into ``row``."""
    n = len(row)
    source = pixels[top + begin].reshape(-1)[3 * left : 3 * left + n]
    w = weights[0]
    for x in range(n):
        row[x] = w * source[x]
    for k in range(begin + 1, end):
        source = pixels[top + k].reshape(-1)[3 * left : 3 * left + n]
        w = weights[k - begin]
        for x in range(n):
            row[x] += w * source[x]


@jit
@no_type_check
def gather_across(row, begin, taps, weights, line):
    """Blend ``taps`` pixels of ``row`` from ``begin[x]`` on into pixel ``x`` of ``line``.

    Both hold interleaved r, g, b. ``row`` is padded by ``taps`` finite pixels, ``line`` by one
    float.
    """
    if taps <= 2:
        for x in range(len(begin)):
            blend_pixel(row, begin[x], weights, x, 2, line)
    elif taps == 3:
        for x in range(len(begin)):
            blend_pixel(row, begin[x], weights, x, 3, line)
    elif taps == 4:
        for x in range(len(begin)):
            blend_pixel(row, begin[x], weights, x, 4, line)
    elif taps == 5:
        for x in range(len(begin)):
            blend_pixel(row, begin[x], weights, x, 5, line)
    else:
        for x in range(len(begin)):
            blend_pixel(row, begin[x], weights, x, taps, line)


@intrinsic
@no_type_check
def blend_pixel(typingctx, row, first, weights, x, taps, line):
    """``line[x] = sum_t weights[x, t] * row[first + t]`` for pixels of three floats.

    Four floats are read, blended and written at once. The fourth belongs to the next pixel, which
    is written later.
    """

    def generate(context, builder, signature, arguments):
        row, weights, line = (
            context.make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 2, 5)
        )
        four = ir.VectorType(ir.FloatType(), 4)
        three = ir.Constant(ir.IntType(64), 3)
        columns = builder.extract_value(weights.shape, 1)
        own = builder.gep(weights.data, [builder.mul(arguments[3], columns)])
        source = builder.gep(row.data, [builder.mul(arguments[1], three)])
        total = cgutils.alloca_once_value(builder, ir.Constant(four, [0.0] * 4))
        with cgutils.for_range(builder, arguments[4]) as loop:
            pixel = builder.gep(source, [builder.mul(loop.index, three)])
            values = builder.load(builder.bitcast(pixel, four.as_pointer()), align=4)
            weight = builder.load(builder.gep(own, [loop.index]))
            lane = ir.Constant(ir.IntType(32), 0)
            one = builder.insert_element(ir.Constant(four, ir.Undefined), weight, lane)
            all_four = ir.Constant(ir.VectorType(ir.IntType(32), 4), [0] * 4)
            spread = builder.shuffle_vector(one, ir.Constant(four, ir.Undefined), all_four)
            product = builder.fmul(values, spread, flags=("contract",))
            builder.store(builder.fadd(builder.load(total), product, flags=("contract",)), total)
        target = builder.gep(line.data, [builder.mul(arguments[3], three)])
        builder.store(builder.load(total), builder.bitcast(target, four.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(row, first, weights, x, taps, line), generate


@jit
@no_type_check
def cut(pixels, top, left, height, width, filter_id, out):
    """Resize a box of ``pixels`` (h, w, 3) uint8 into ``out`` (size, size, 3) uint8.

    The box must lie inside the image: nothing is checked here.
    """
    size = out.shape[0]
    y_begin, y_end, y_weights = filter_weights(height, size, filter_id)
    x_begin, x_end, x_weights = filter_weights(width, size, filter_id)
    taps = (x_end - x_begin).max()
    row = np.zeros(3 * (width + taps + 1) + 1, np.float32)
    line = np.empty(3 * size + 1, np.float32)
    for y in range(size):
        gather_down(pixels, top, left, y_begin[y], y_end[y], y_weights[y], row[: 3 * width])
        gather_across(row, x_begin, taps, x_weights, line)
        target = out[y].reshape(-1)
        for x in range(3 * size):
            target[x] = np.uint8(
                min(max(line[x] + np.float32(0.5), np.float32(0)), np.float32(255))
            )


@jit
@no_type_check
def cut_channels(pixels, top, left, height, width, filter_id, out):
    """Resize a box of ``pixels`` (h, w, c) uint8 into ``out`` (size, size, c) uint8.

    Images with another number of channels than three are resized three channels at a time.
    """
    channels = pixels.shape[2]
    if channels == 3:
        cut(pixels, top, left, height, width, filter_id, out)
        return
    size = out.shape[0]
    window = np.zeros((height, width, 3), np.uint8)
    made = np.empty((size, size, 3), np.uint8)
    for first in range(0, channels, 3):
        count = min(channels - first, 3)
        for y in range(height):
            for x in range(width):
                for c in range(count):
                    window[y, x, c] = pixels[top + y, left + x, first + c]
        cut(window, 0, 0, height, width, filter_id, made)
        for y in range(size):
            for x in range(size):
                for c in range(count):
                    out[y, x, first + c] = made[y, x, c]


def weight_matrix(
    start: Int[Tensor, " n"],
    length: Int[Tensor, " n"],
    extent: int,
    size: int,
    interpolation: Interpolation,
) -> Float[Tensor, "n {size} {extent}"]:
    """Return filter matrices: ``matrix[j] @ axis`` resizes ``length[j]`` pixels from ``start[j]``.

    Args:
        start: first pixel of each box along the axis.
        length: pixels of each box, at least 1.
        extent: pixels of the whole axis.
        size: pixels of the output.
        interpolation: the filter.
    """
    scale = (length / size)[:, None, None]  # (n, 1, 1) float32
    center = (torch.arange(size, device=start.device) + 0.5)[:, None] * scale  # (n, size, 1)
    pixel = torch.arange(extent, device=start.device) - start[:, None, None]  # (n, 1, extent)
    u = (pixel + 0.5 - center).abs()  # (n, size, extent)
    if interpolation == "area":
        weights = torch.minimum(((scale + 1) / 2 - u).clamp(min=0), scale.clamp(max=1))
    else:
        if interpolation != "bilinear":
            u = u / scale.clamp(min=1)
        weights = cubic(u) if interpolation == "bicubic" else (1 - u).clamp(min=0)
    weights = weights * ((pixel >= 0) & (pixel < length[:, None, None]))
    return weights / weights.sum(2, keepdim=True)


def cubic(u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Keys' cubic with a = -0.5, for distances ``u >= 0``."""
    near = (1.5 * u - 2.5) * u * u + 1
    far = ((-0.5 * u + 2.5) * u - 4) * u + 2
    return torch.where(u < 1, near, torch.where(u < 2, far, torch.zeros_like(u)))
