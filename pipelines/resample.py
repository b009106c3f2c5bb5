"""The filter law: crop first, resize second, as compiled code and as weight matrices.

An axis of ``length`` pixels becomes ``size`` pixels: output ``i`` has its centre at
``c = (i + 0.5) * s`` with ``s = length / size``, and takes pixel ``k`` of the box with the weight

    antialias   triangle(u / max(s, 1))            PIL's BILINEAR: the triangle widens on shrinking
    bicubic     cubic(u / max(s, 1)), a = -0.5     PIL's BICUBIC
    bilinear    triangle(u)                        two taps, no antialiasing
    area        overlap of [k, k + 1] with         OpenCV's INTER_AREA
                [i * s, (i + 1) * s]

where ``u = |k + 0.5 - c|``, divided by the sum of the weights. Pixels outside the box are never
used, as when PIL crops before it resizes. Both passes run in float32 with one rounding at the end.

The compiled form goes down first: a row of the output gathers its source rows in contiguous loops
over ``3 * width`` bytes, and the slower pass across reads that one row from the first-level cache.
It runs on ``size`` rows whatever the box, so enlarging costs no more than shrinking.
"""

from __future__ import annotations

from typing import Final, no_type_check

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipelines.compiled import compiled
from pipelines.decoders import Interpolation

LAWS: Final[dict[Interpolation, int]] = {"antialias": 0, "bicubic": 1, "bilinear": 2, "area": 3}
"""The number by which compiled code knows a filter."""


@compiled
@no_type_check
def support(law, scale):
    """Half the width of the filter, in pixels of the box."""
    if law == 2:
        return 1.0
    if law == 3:
        return (scale + 1) / 2
    return max(scale, 1.0) * (2 if law == 1 else 1)


@compiled
@no_type_check
def weight(law, u, scale):
    """The weight, before normalisation, of a pixel whose centre is ``u`` pixels away."""
    if law == 3:
        return min(max((scale + 1) / 2 - u, 0.0), min(scale, 1.0))
    if law != 2:
        u /= max(scale, 1.0)
    if law != 1:
        return max(1 - u, 0.0)
    if u < 1:
        return (1.5 * u - 2.5) * u * u + 1
    return ((-0.5 * u + 2.5) * u - 4) * u + 2 if u < 2 else 0.0


@compiled
@no_type_check
def filter_weights(length, size, law):
    """Where each output's pixels begin and end, and their weights.

    Returns:
        ``begin`` and ``end`` (size,) into the box; ``weights`` (size, taps) float32, of which
        ``end - begin`` count.
    """
    scale = length / size
    reach = support(law, scale)
    begin = np.empty(size, np.int64)
    end = np.empty(size, np.int64)
    weights = np.zeros((size, min(length, int(2 * reach) + 2)), np.float32)
    for i in range(size):
        centre = (i + 0.5) * scale
        first = max(int(centre - reach + 0.5), 0)
        last = min(max(int(centre + reach + 0.5), first + 1), length)
        total = 0.0
        for k in range(first, last):
            total += weight(law, abs(k + 0.5 - centre), scale)
        for k in range(first, last):
            weights[i, k - first] = weight(law, abs(k + 0.5 - centre), scale) / total
        begin[i], end[i] = first, last
    return begin, end, weights


@compiled
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


@compiled
@no_type_check
def gather_across(row, begin, end, weights, line):
    """Blend the pixels of ``row`` into those of ``line``; both hold r, g, b in turn."""
    for x in range(len(begin)):
        first = begin[x]
        r, g, b = np.float32(0), np.float32(0), np.float32(0)
        for t in range(end[x] - first):
            w = weights[x, t]
            p = 3 * (first + t)
            r += w * row[p]
            g += w * row[p + 1]
            b += w * row[p + 2]
        line[3 * x], line[3 * x + 1], line[3 * x + 2] = r, g, b


@compiled
@no_type_check
def cut(pixels, top, left, height, width, law, out):
    """Resize a box of ``pixels`` (h, w, 3) uint8 into ``out`` (size, size, 3) uint8.

    The box must lie inside the image: nothing is checked here.
    """
    size = out.shape[0]
    y_begin, y_end, y_weights = filter_weights(height, size, law)
    x_begin, x_end, x_weights = filter_weights(width, size, law)
    row = np.empty(3 * width, np.float32)
    line = np.empty(3 * size, np.float32)
    for y in range(size):
        gather_down(pixels, top, left, y_begin[y], y_end[y], y_weights[y], row)
        gather_across(row, x_begin, x_end, x_weights, line)
        target = out[y].reshape(-1)
        for x in range(3 * size):
            target[x] = np.uint8(
                min(max(line[x] + np.float32(0.5), np.float32(0)), np.float32(255))
            )


def weight_matrix(
    start: Int[Tensor, " n"],
    length: Int[Tensor, " n"],
    extent: int,
    size: int,
    interpolation: Interpolation,
) -> Float[Tensor, "n {size} {extent}"]:
    """The law as matrices: ``matrix[j] @ axis`` resizes the ``length[j]`` pixels from ``start[j]``.

    Args:
        start: first pixel of each box along the axis.
        length: pixels of each box, at least 1.
        extent: pixels of the whole axis.
        size: pixels of the output.
        interpolation: the filter.
    """
    scale = (length / size)[:, None, None]  # (n, 1, 1) float32
    centre = (torch.arange(size, device=start.device) + 0.5)[:, None] * scale  # (n, size, 1)
    pixel = torch.arange(extent, device=start.device) - start[:, None, None]  # (n, 1, extent)
    u = (pixel + 0.5 - centre).abs()  # (n, size, extent)
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
