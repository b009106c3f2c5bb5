"""Augmentation on the host: compiled code applies all operations to one image at a time.

The formulas are those of ``pipelines.augment.reference``. There each operation reads and writes the
whole batch; here an image stays in cache. A scanline is stored as three planes, so that every loop
runs over contiguous floats. An image that is turned is copied that way first. Contrast needs the
mean of the image after the operations before it, so a first pass applies those and a second pass
does the rest. Vertical blur adds whole scanlines, horizontal blur padded ones. Each result depends
on its row only, so it is the same for any number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from pipelines.augment import operations
from pipelines.augment.operations import BRIGHTNESS, CONTRAST, GRAY, HUE, LUMA, SATURATION
from pipelines.augment.params import ViewParams
from pipelines.augment.reference import Images, gaussian_kernels
from pipelines.system.buffer_pool import pooled_empty
from pipelines.system.jit import jit, take_next
from pipelines.views import View

NEGLIGIBLE = np.float32(operations.NEGLIGIBLE)
ZERO, HALF, ONE, TWO, THREE, FOUR, SIX = (np.float32(x) for x in (0, 0.5, 1, 2, 3, 4, 6))
TINY = np.float32(1e-30)
RED, GREEN, BLUE = (np.float32(x) for x in LUMA)
BYTE = np.float32(1 / 255)
NEXT, PIXEL = np.uint64(1), np.uint64(3)


@dataclass(frozen=True, slots=True)
class CpuPlan:
    """One view's settings and the parameters drawn for its rows."""

    view: View
    params: ViewParams

    def tensors(self) -> Iterator[Tensor]:
        """Yield nothing: the compiled code takes arrays."""
        return iter(())

    def to(self, device: torch.device) -> CpuPlan:
        """Return the plan itself: it stays on the host."""
        return self


class CpuAugmenter:
    """Augments crops on the host, in threads.

    Values differ by at most 1e-5 from those of ``reference.augment``, where black is 0 and white 1,
    for any number of ``workers``.
    """

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers
        # the calling thread is one of the workers; the others start with the first view
        self.pool = ThreadPoolExecutor(max(workers - 1, 1), "augment")

    def plan(self, view: View, params: ViewParams) -> CpuPlan:
        """Return the augmentations of the rows of a view."""
        return CpuPlan(view, params)

    def augment(
        self,
        crops: UInt8[Tensor, "n h w c"],
        plan: CpuPlan,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> Images:
        """Return the augmented view, float32 in channels_last memory; ``crops`` are not changed.

        ``mean`` and ``std`` normalize values in [0, 1].

        Raises:
            ValueError: the number or the size of the crops is not the plan's.
        """
        view, params = plan.view, plan.params
        if crops.shape != (len(params.flip), view.size, view.size, 3):
            raise ValueError(
                f"crops {tuple(crops.shape)} are not {len(params.flip)} of {view.size} pixels"
            )
        images, flip = turned(crops.numpy(), params)
        out = pooled_empty(crops.shape, torch.float32)
        scale = (1 / np.array(std)).astype(np.float32)
        shift = (-np.array(mean) / np.array(std)).astype(np.float32)
        kernels = gaussian_kernels(np.maximum(params.sigma, TINY), view)
        arguments: tuple[Any, ...] = (
            np.zeros(1, np.int64), np.ascontiguousarray(images), out.numpy(),
            flip, params.jitter, params.factor, params.order, np.array(view.jitter) != 0,
            params.gray, view.gray_first, params.sigma, kernels, params.solarize, scale, shift,
        )  # fmt: skip
        others = [self.pool.submit(augment_images, *arguments) for _ in range(self.workers - 1)]
        augment_images(*arguments)
        for other in others:
            other.result()
        return out.permute(0, 3, 1, 2)

    def close(self) -> None:
        """End the threads."""
        self.pool.shutdown()


def turned(
    crops: NDArray[np.uint8], params: ViewParams
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the crops with the rows that are turned copied that way, and which rows to mirror."""
    mirrored, upside_down, transposed = params.orientation()
    rows = upside_down | transposed
    if not rows.any():
        return crops, mirrored
    images = crops.copy()
    for row in np.flatnonzero(rows):
        image = crops[row, :, ::-1] if mirrored[row] else crops[row]
        image = image[::-1] if upside_down[row] else image
        images[row] = image.swapaxes(0, 1) if transposed[row] else image
    return images, mirrored & ~rows


@jit
@no_type_check
def augment_images(
    counter, crops, out, flip, jitter, factor, order, active, gray, gray_first, sigma, kernels,
    inverted, scale, shift,
):  # fmt: skip
    """Augment images, taken from the shared ``counter``, until none is left."""
    n, height, width, _ = crops.shape
    planes = np.empty((height, 3 * width), np.float32)  # a scanline: all red, all green, all blue
    line = np.empty(3 * width, np.float32)
    padded = np.empty(width + kernels.shape[1], np.float32)
    ops, amount = np.empty(5, np.int64), np.empty(5, np.float32)
    while True:
        i = take_next(counter)
        if i >= n:
            return
        source, target = crops[i], out[i]
        count = list_operations(i, jitter, factor, order, active, gray, gray_first, ops, amount)
        contrast = 0
        while contrast < count and ops[contrast] != CONTRAST:
            contrast += 1
        kept = contrast < count or sigma[i] > 0
        begin, mean = 0, ZERO
        if contrast < count:
            begin, mean = contrast, mean_luma(source, flip[i], ops, amount, contrast, planes)
        for y in range(height):
            row = planes[y] if kept else line
            if contrast == count:
                load(source[y].reshape(-1), flip[i], row)
            for k in range(begin, count):
                apply(ops[k], amount[k], mean, row)
            if sigma[i] == 0:
                store(row, inverted[i], scale, shift, target[y].reshape(-1))
        if sigma[i] > 0:
            reach = reach_of(kernels[i])
            for y in range(height):
                blur_line(planes, y, kernels[i], reach, padded, line)
                store(line, inverted[i], scale, shift, target[y].reshape(-1))


@jit
@no_type_check
def list_operations(i, jitter, factor, order, active, gray, gray_first, ops, amount):
    """Write row ``i``'s operations and their factors in order; return their number."""
    count = 0
    if gray[i] and gray_first:
        ops[count], amount[count] = GRAY, ONE
        count += 1
    if jitter[i]:
        for op in order[i]:
            if active[op]:
                ops[count], amount[count] = op, factor[i, op]
                count += 1
    if gray[i] and not gray_first:
        ops[count], amount[count] = GRAY, ONE
        count += 1
    return count


@jit
@no_type_check
def mean_luma(source, flip, ops, amount, count, planes):
    """Fill ``planes`` with the image after ``count`` operations; return its mean luma."""
    height, width, _ = source.shape
    total = 0.0
    for y in range(height):
        row = planes[y]
        load(source[y].reshape(-1), flip, row)
        for k in range(count):
            apply(ops[k], amount[k], ZERO, row)
        red, green, blue = row[:width], row[width : 2 * width], row[2 * width :]
        part = ZERO
        for x in range(width):
            part += RED * red[x] + GREEN * green[x] + BLUE * blue[x]
        total += part
    return np.float32(total / (height * width))


@jit
@no_type_check
def load(source, flip, row):
    """Read interleaved r, g, b bytes, mirrored with ``flip``, into three planes in [0, 1].

    Indices are unsigned: a signed one may count from the end, which keeps the mirrored loop from
    being vectorized.
    """
    width = np.uint64(len(row) // 3)
    red, green, blue = row[:width], row[width : 2 * width], row[2 * width :]
    if flip:
        for x in range(width):
            place = PIXEL * (width - NEXT - x)
            red[x] = BYTE * np.float32(source[place])
            green[x] = BYTE * np.float32(source[place + NEXT])
            blue[x] = BYTE * np.float32(source[place + NEXT + NEXT])
    else:
        for x in range(width):
            place = PIXEL * x
            red[x] = BYTE * np.float32(source[place])
            green[x] = BYTE * np.float32(source[place + NEXT])
            blue[x] = BYTE * np.float32(source[place + NEXT + NEXT])


@jit
@no_type_check
def store(row, inverted, scale, shift, target):
    """Write three planes, solarized if ``inverted``, as normalized, interleaved r, g, b."""
    width = len(row) // 3
    red, green, blue = row[:width], row[width : 2 * width], row[2 * width :]
    if inverted:
        for x in range(len(row)):
            row[x] = ONE - row[x] if row[x] >= HALF else row[x]
    by_red, by_green, by_blue = scale[0], scale[1], scale[2]  # kept out of the loop
    to_red, to_green, to_blue = shift[0], shift[1], shift[2]
    for x in range(width):
        target[3 * x] = red[x] * by_red + to_red
        target[3 * x + 1] = green[x] * by_green + to_green
        target[3 * x + 2] = blue[x] * by_blue + to_blue


@jit
@no_type_check
def apply(op, amount, mean, row):
    """Apply one operation to one scanline; ``mean`` is the image's mean luma for contrast."""
    if op == BRIGHTNESS:
        blend(row, amount, ZERO)
    elif op == CONTRAST:
        blend(row, amount, (ONE - amount) * mean)
    elif op == HUE:
        hue(row, amount)
    else:
        saturation(row, amount if op == SATURATION else ZERO)


@jit
@no_type_check
def clamp(x):
    """Clamp ``x`` to [0, 1]."""
    x = x if x > ZERO else ZERO
    return x if x < ONE else ONE


@jit
@no_type_check
def blend(row, factor, bias):
    """``clamp(factor x + bias)``: brightness, and contrast once the mean is known."""
    for x in range(len(row)):
        row[x] = clamp(factor * row[x] + bias)


@jit
@no_type_check
def saturation(row, factor):
    """Blend with the luma; factor 0 is grayscale."""
    width = len(row) // 3
    red, green, blue = row[:width], row[width : 2 * width], row[2 * width :]
    rest = ONE - factor
    for x in range(width):
        r, g, b = red[x], green[x], blue[x]
        gray = rest * (RED * r + GREEN * g + BLUE * b)
        red[x] = clamp(factor * r + gray)
        green[x] = clamp(factor * g + gray)
        blue[x] = clamp(factor * b + gray)


@jit
@no_type_check
def hue(row, turns):
    """Rotate the hue; ``pipelines.augment.reference.hue`` has the formula.

    The ramp has period 6, so it is computed from the distance to its nearest peak. This needs no
    remainder, and no division except by the chroma.
    """
    width = len(row) // 3
    red, green, blue = row[:width], row[width : 2 * width], row[2 * width :]
    sixths = SIX * (turns - np.floor(turns))
    for x in range(width):
        r, g, b = red[x], green[x], blue[x]
        value = r if r > g else g
        value = value if value > b else b
        least = r if r < g else g
        least = least if least < b else b
        chroma = value - least
        over = ONE / (chroma if chroma > TINY else TINY)
        of_red, of_green, of_blue = (g - b) * over, (b - r) * over + TWO, (r - g) * over + FOUR
        sector = of_green if value == g else of_blue
        sector = of_red if value == r else sector
        sector += sixths  # from -1 to 11
        sector = sector - SIX if sector >= SIX else sector
        red[x] = value - chroma * ramp(sector + THREE)
        green[x] = value - chroma * ramp(sector + ONE)
        blue[x] = value - chroma * ramp(sector - ONE)


@jit
@no_type_check
def ramp(place):
    """``clamp(2 - d)``, d the distance of ``place``, -2 to 9, to the nearer of 0 and 6."""
    near, far = abs(place), abs(place - SIX)
    return clamp(TWO - (near if near < far else far))


@jit
@no_type_check
def reach_of(kernel):
    """Return the distance from the centre of the outermost tap that is not negligible."""
    center = len(kernel) // 2
    reach = center
    while reach > 0 and kernel[center + reach] < NEGLIGIBLE:
        reach -= 1
    return reach


@jit
@no_type_check
def blur_line(planes, y, kernel, reach, padded, line):
    """Blur scanline ``y`` vertically, then each of its planes horizontally, with mirrored ends."""
    last, width, center = len(planes) - 1, len(line) // 3, len(kernel) // 2
    scaled(planes[y], kernel[center], line)
    for k in range(1, reach, 2):
        add_pairs(
            planes[abs(y - k)], planes[last - abs(last - y - k)], kernel[center + k],
            planes[abs(y - k - 1)], planes[last - abs(last - y - k - 1)], kernel[center + k + 1],
            line,
        )  # fmt: skip
    if reach % 2:
        above, below = planes[abs(y - reach)], planes[last - abs(last - y - reach)]
        add_pair(above, below, kernel[center + reach], line)
    for c in range(3):
        plane = line[c * width : (c + 1) * width]
        middle = padded[reach : reach + width]
        for x in range(width):
            middle[x] = plane[x]
        for k in range(1, reach + 1):
            padded[reach - k] = plane[k]
            padded[reach + width - 1 + k] = plane[width - 1 - k]
        scaled(middle, kernel[center], plane)
        for k in range(1, reach, 2):
            add_pairs(
                padded[reach - k :], padded[reach + k :], kernel[center + k],
                padded[reach - k - 1 :], padded[reach + k + 1 :], kernel[center + k + 1],
                plane,
            )  # fmt: skip
        if reach % 2:
            add_pair(padded, padded[2 * reach :], kernel[center + reach], plane)


@jit
@no_type_check
def scaled(source, weight, out):
    """``out = weight source``."""
    for x in range(len(out)):
        out[x] = weight * source[x]


@jit
@no_type_check
def add_pair(a, b, weight, out):
    """``out += weight (a + b)``."""
    for x in range(len(out)):
        out[x] += weight * (a[x] + b[x])


@jit
@no_type_check
def add_pairs(a, b, weight, c, d, other, out):
    """``out += weight (a + b) + other (c + d)``: one pass over ``out`` instead of two."""
    for x in range(len(out)):
        out[x] += weight * (a[x] + b[x]) + other * (c[x] + d[x])
