"""The Triton kernels of ``pipelines.augment.triton``: the one file that imports Triton.

A program works on one tile of one image, so a row's operations are branches on scalars, which cost
nothing. Images are contiguous (SIZE, SIZE, 3), uint8 or float; pixels are held as three vectors r,
g, b. ``codes`` (n, COLUMNS) holds each row's operations, ``amounts`` (n, 5) their factors.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from pipelines.augment import operations

CONTRAST, SATURATION = tl.constexpr(operations.CONTRAST), tl.constexpr(operations.SATURATION)
HUE, GRAY = tl.constexpr(operations.HUE), tl.constexpr(operations.GRAY)
ORIENTATION = tl.constexpr(operations.ORIENTATION)
SOLARIZE = tl.constexpr(operations.SOLARIZE)
MIRRORED, UPSIDE_DOWN = tl.constexpr(operations.MIRRORED), tl.constexpr(operations.UPSIDE_DOWN)
TRANSPOSED = tl.constexpr(operations.TRANSPOSED)
COUNT, BEFORE = tl.constexpr(operations.COUNT), tl.constexpr(operations.BEFORE)
SLOT, OPS = tl.constexpr(operations.SLOT), tl.constexpr(operations.OPS)
COLUMNS, MOST = tl.constexpr(operations.COLUMNS), tl.constexpr(operations.MOST)
RED, GREEN, BLUE = (tl.constexpr(x) for x in operations.LUMA)
TINY = tl.constexpr(1e-30)


@triton.jit
@no_type_check
def luma_sums(crops, codes, amounts, rows, parts, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """``parts[row, tile]``: the sum of the luma after the operations before contrast.

    One program for each tile of each of ``rows``. The sums are added up where they are used, in the
    order of the tiles, so the mean is the same in every run.
    """
    tiles: tl.constexpr = (SIZE * SIZE + BLOCK - 1) // BLOCK
    row, tile = tl.load(rows + tl.program_id(0) // tiles), tl.program_id(0) % tiles
    pixel = tile * BLOCK + tl.arange(0, BLOCK)
    row_codes = codes + row * COLUMNS
    r, g, b = load(crops, row, pixel, tl.load(row_codes + ORIENTATION), SIZE)
    count = tl.load(row_codes + BEFORE)
    r, g, b = apply_all(row_codes + OPS, amounts + row * MOST, count, 0.0, r, g, b)
    inside = tl.where(pixel < SIZE * SIZE, luma(r, g, b), 0.0)
    tl.store(parts + row * tiles + tile, tl.sum(inside))


@triton.jit
@no_type_check
def color(
    crops, codes, amounts, parts, out, unblurred, scale, shift,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Orientation and colour; rows without blur are written to ``out``, others to ``unblurred``.

    One program for each tile of each row; TILES is their number rounded up to a power of two.
    """
    tiles: tl.constexpr = (SIZE * SIZE + BLOCK - 1) // BLOCK
    row, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    pixel = tile * BLOCK + tl.arange(0, BLOCK)
    row_codes = codes + row * COLUMNS
    count, mean = tl.load(row_codes + COUNT), 0.0
    if tl.load(row_codes + BEFORE) < count:
        part = tl.arange(0, TILES)
        mean = tl.sum(tl.load(parts + row * tiles + part, part < tiles, 0.0)) / (SIZE * SIZE)
    r, g, b = load(crops, row, pixel, tl.load(row_codes + ORIENTATION), SIZE)
    r, g, b = apply_all(row_codes + OPS, amounts + row * MOST, count, mean, r, g, b)
    slot = tl.load(row_codes + SLOT)
    if slot < 0:
        inverted = tl.load(row_codes + SOLARIZE)
        r = solarize(r, inverted) * scale[0] + shift[0]
        g = solarize(g, inverted) * scale[1] + shift[1]
        b = solarize(b, inverted) * scale[2] + shift[2]
        store(out, row, pixel, r, g, b, SIZE)
    else:
        store(unblurred, slot, pixel, r, g, b, SIZE)


@triton.jit
@no_type_check
def blur_down(
    source, target, kernels, reaches,
    SIZE: tl.constexpr, TAPS: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """Blur images (b, SIZE, SIZE, 3) vertically, mirrored at the borders.

    One program for each tile of SIDE lines by SIDE values, so that lines are reread from the cache.
    """
    width: tl.constexpr = 3 * SIZE
    down, across = (SIZE + SIDE - 1) // SIDE, (width + SIDE - 1) // SIDE
    slot, tile = tl.program_id(0) // (down * across), tl.program_id(0) % (down * across)
    y = (tile // across * SIDE + tl.arange(0, SIDE))[:, None]
    place = (tile % across * SIDE + tl.arange(0, SIDE))[None, :]
    inside = (y < SIZE) & (place < width)
    image = slot.to(tl.int64) * (SIZE * width)
    lines = source + image + place
    weights = kernels + slot * TAPS + TAPS // 2
    total = tl.load(weights) * tl.load(lines + y * width, inside, 0.0)
    for k in range(1, tl.load(reaches + slot) + 1):
        above, below = mirrored(y, k, SIZE)
        pair = tl.load(lines + above * width, inside, 0.0)
        pair += tl.load(lines + below * width, inside, 0.0)
        total += tl.load(weights + k) * pair
    tl.store(target + image + y * width + place, total, inside)


@triton.jit
@no_type_check
def blur_across(
    source, out, kernels, reaches, rows, codes, scale, shift,
    SIZE: tl.constexpr, TAPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Blur horizontally, then solarize and normalize: image i of ``source`` to ``rows[i]``.

    One program for each tile of BLOCK values.
    """
    width: tl.constexpr = 3 * SIZE
    tiles: tl.constexpr = (SIZE * width + BLOCK - 1) // BLOCK
    slot, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    number = tile * BLOCK + tl.arange(0, BLOCK)
    inside = number < SIZE * width
    x, channel = number % width // 3, number % 3
    image = source + slot.to(tl.int64) * (SIZE * width)
    line = image + (number - 3 * x)  # the same channel at x = 0
    weights = kernels + slot * TAPS + TAPS // 2
    total = tl.load(weights) * tl.load(image + number, inside, 0.0)
    for k in range(1, tl.load(reaches + slot) + 1):
        left, right = mirrored(x, k, SIZE)
        pair = tl.load(line + 3 * left, inside, 0.0) + tl.load(line + 3 * right, inside, 0.0)
        total += tl.load(weights + k) * pair
    row = tl.load(rows + slot)
    total = solarize(total, tl.load(codes + row * COLUMNS + SOLARIZE))
    by = tl.where(channel == 0, scale[0], tl.where(channel == 1, scale[1], scale[2]))
    to = tl.where(channel == 0, shift[0], tl.where(channel == 1, shift[1], shift[2]))
    tl.store(out + row.to(tl.int64) * (SIZE * width) + number, total * by + to, inside)


@triton.jit
@no_type_check
def mirrored(place, distance, SIZE: tl.constexpr):
    """Return the places at a distance before and after, reflected at 0 and SIZE - 1."""
    last: tl.constexpr = SIZE - 1
    return tl.abs(place - distance), last - tl.abs(last - place - distance)


@triton.jit
@no_type_check
def load(crops, row, pixel, orientation, SIZE: tl.constexpr):
    """Return red, green and blue of pixels in [0, 1] of the flipped, then transposed image."""
    x = pixel % SIZE
    turned = pixel + (orientation & MIRRORED) * (SIZE - 1 - 2 * x)
    if orientation >= UPSIDE_DOWN:
        y = pixel // SIZE
        if orientation >= TRANSPOSED:
            x, y = y, x
        if orientation & MIRRORED:
            x = SIZE - 1 - x
        if orientation & UPSIDE_DOWN:
            y = SIZE - 1 - y
        turned = y * SIZE + x
    inside = pixel < SIZE * SIZE
    place = crops + row.to(tl.int64) * (3 * SIZE * SIZE) + 3 * turned
    r = tl.load(place, inside, 0).to(tl.float32) * (1 / 255)
    g = tl.load(place + 1, inside, 0).to(tl.float32) * (1 / 255)
    b = tl.load(place + 2, inside, 0).to(tl.float32) * (1 / 255)
    return r, g, b


@triton.jit
@no_type_check
def store(images, i, pixel, r, g, b, SIZE: tl.constexpr):
    """Write pixels of image ``i``, joined to (pixels, 4), so that the stores coalesce."""
    channel = tl.arange(0, 4)[None, :]
    values = tl.join(tl.join(r, b), tl.join(g, b)).reshape(pixel.shape[0], 4)
    place = images + i.to(tl.int64) * (3 * SIZE * SIZE) + 3 * pixel[:, None] + channel
    tl.store(place, values, (pixel[:, None] < SIZE * SIZE) & (channel < 3))


@triton.jit
@no_type_check
def apply_all(ops, amounts, count, mean, r, g, b):
    """Apply a row's first ``count`` operations; ``mean`` is the mean luma for contrast."""
    for k in range(count):
        op, amount = tl.load(ops + k), tl.load(amounts + k)
        if op == HUE:
            r, g, b = hue(r, g, b, amount)
        else:
            bias = tl.where(op == CONTRAST, (1 - amount) * mean, 0.0) + tl.zeros_like(r)
            if (op == SATURATION) | (op == GRAY):
                bias = (1 - amount) * luma(r, g, b)
            r = clamp(amount * r + bias)
            g = clamp(amount * g + bias)
            b = clamp(amount * b + bias)
    return r, g, b


@triton.jit
@no_type_check
def luma(r, g, b):
    """Return the weighted mean of red, green and blue."""
    return RED * r + GREEN * g + BLUE * b


@triton.jit
@no_type_check
def clamp(x):
    """Clamp ``x`` to [0, 1]."""
    return tl.minimum(tl.maximum(x, 0.0), 1.0)


@triton.jit
@no_type_check
def solarize(x, inverted):
    """Invert the values of one half and more, if ``inverted``."""
    return tl.where((inverted != 0) & (x >= 0.5), 1 - x, x)


@triton.jit
@no_type_check
def hue(r, g, b, sixths):
    """Rotate the hue by ``sixths`` (0 to 6) of the circle; ``reference.hue`` has the formula.

    The ramp has period 6 and is computed from the distance to its nearest peak.
    """
    value = tl.maximum(tl.maximum(r, g), b)
    chroma = value - tl.minimum(tl.minimum(r, g), b)
    over = 1 / tl.maximum(chroma, TINY)
    sector = tl.where(value == g, (b - r) * over + 2, (r - g) * over + 4)
    sector = tl.where(value == r, (g - b) * over, sector) + sixths  # from -1 to 11
    sector = tl.where(sector >= 6, sector - 6, sector)
    red = value - chroma * ramp(sector + 3)
    green = value - chroma * ramp(sector + 1)
    blue = value - chroma * ramp(sector - 1)
    return red, green, blue


@triton.jit
@no_type_check
def ramp(place):
    """``clamp(2 - d)``, d the distance of ``place``, -2 to 9, to the nearer of 0 and 6."""
    return clamp(2 - tl.minimum(tl.abs(place), tl.abs(place - 6)))
