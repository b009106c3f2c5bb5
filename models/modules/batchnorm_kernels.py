"""The Triton kernels of ``models.modules.batchnorm_group``: the one file that imports Triton.

Activations are a contiguous matrix of rows (pixels, or images in a head) by channels. Groups are
``length`` consecutive rows. A program works on one chunk of a group's rows and on BLOCK_C channels,
tile by tile. What the chunks of a group found is combined in the order of the chunks, without
atomics, so every run gives the same bits. Arithmetic is in float32.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def partial_moments(
    x, parts, groups, length, chunk, splits, channels,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of each chunk, to ``parts`` (2, groups, splits, channels).

    Each element of the tile keeps a mean of its own (Welford 1962); those of the tile's rows are
    combined at the end (Chan et al. 1979).
    """
    group, split, channel, row = place(splits, channels, BLOCK_R, BLOCK_C)
    inside = channel < channels
    rows = tl.minimum(chunk, length - split * chunk)
    tile = x + first_row(group, length, split, chunk) * channels
    within = row[:, None] * channels + channel[None, :]
    mean = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    squares = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    number = 0.0
    for done in range(0, rows, BLOCK_R):
        valid = (row < rows - done)[:, None] & inside[None, :]
        value = tl.load(tile + within, valid, 0.0).to(tl.float32)
        number += 1.0
        from_mean = tl.where(valid, value - mean, 0.0)
        mean += from_mean * (1.0 / number)
        squares += from_mean * (value - mean)
        tile += BLOCK_R * channels
    count = (rows // BLOCK_R + (row < rows % BLOCK_R)).to(tl.float32)[:, None]
    joint = tl.sum(mean * count, 0) / rows
    from_joint = mean - joint[None, :]
    total = tl.sum(squares + count * from_joint * from_joint, 0)
    here = parts + (group * splits + split) * channels + channel
    tl.store(here, joint, inside)
    tl.store(here + groups * splits * channels, total, inside)


@triton.jit
@no_type_check
def normalize(
    x, y, weight, bias, parts, saved, batch, eps, groups, length, chunk, splits, channels,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """``y = (x - mean) * rstd * weight + bias``, by the moments of each group.

    Also writes ``saved`` (2, groups, channels), mean and rstd of each group, and ``batch``
    (2, channels), the means over the groups of mean and unbiased variance. SPLITS is the number of
    chunks rounded up to a power of two.
    """
    group, split, channel, row = place(splits, channels, BLOCK_R, BLOCK_C)
    inside = channel < channels
    mean, squares = moments(parts, group, groups, length, chunk, splits, channels, channel, SPLITS)
    rstd = 1.0 / tl.sqrt(squares / length + eps)
    if split == 0:
        tl.store(saved + group * channels + channel, mean, inside)
        tl.store(saved + (groups + group) * channels + channel, rstd, inside)
        if group == 0:
            sum_mean = tl.zeros((BLOCK_C,), tl.float32)
            sum_squares = tl.zeros((BLOCK_C,), tl.float32)
            for i in range(groups):
                its_mean, its_squares = moments(
                    parts, i, groups, length, chunk, splits, channels, channel, SPLITS
                )
                sum_mean += its_mean
                sum_squares += its_squares
            tl.store(batch + channel, sum_mean / groups, inside)
            # In floats: groups * (length - 1) could be beyond 2^31.
            unbiased = sum_squares / groups / (length - 1)
            tl.store(batch + channels + channel, unbiased, inside)
    scale, shift = rstd, tl.zeros((BLOCK_C,), tl.float32)
    if weight is not None:
        scale *= tl.load(weight + channel, inside, 0.0).to(tl.float32)
    if bias is not None:
        shift += tl.load(bias + channel, inside, 0.0).to(tl.float32)
    rows = tl.minimum(chunk, length - split * chunk)
    base = first_row(group, length, split, chunk) * channels
    within = row[:, None] * channels + channel[None, :]
    for done in range(0, rows, BLOCK_R):
        valid = (row < rows - done)[:, None] & inside[None, :]
        value = tl.load(x + base + within, valid, 0.0).to(tl.float32)
        value = (value - mean[None, :]) * scale[None, :] + shift[None, :]
        tl.store(y + base + within, value.to(y.dtype.element_ty), valid)
        base += BLOCK_R * channels


@triton.jit
@no_type_check
def partial_sums(
    dy, x, saved, parts, groups, length, chunk, splits, channels,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Each chunk's sums of dy and dy * normed x, to ``parts`` (2, groups, splits, channels)."""
    group, split, channel, row = place(splits, channels, BLOCK_R, BLOCK_C)
    inside = channel < channels
    mean = tl.load(saved + group * channels + channel, inside, 0.0)
    rstd = tl.load(saved + (groups + group) * channels + channel, inside, 0.0)
    rows = tl.minimum(chunk, length - split * chunk)
    base = first_row(group, length, split, chunk) * channels
    within = row[:, None] * channels + channel[None, :]
    plain = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    product = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for done in range(0, rows, BLOCK_R):
        valid = (row < rows - done)[:, None] & inside[None, :]
        grad = tl.load(dy + base + within, valid, 0.0).to(tl.float32)
        value = tl.load(x + base + within, valid, 0.0).to(tl.float32)
        plain += grad
        product += grad * (value - mean[None, :])
        base += BLOCK_R * channels
    here = parts + (group * splits + split) * channels + channel
    tl.store(here, tl.sum(plain, 0), inside)
    tl.store(here + groups * splits * channels, tl.sum(product, 0) * rstd, inside)


@triton.jit
@no_type_check
def input_gradient(
    dy, x, dx, weight, saved, parts, sums, groups, length, chunk, splits, channels,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """``dx = (dy - mean dy - normed x * mean (dy * normed x)) * rstd * weight``, group by group.

    Also writes ``sums`` (2, channels), the gradients of bias and weight.
    """
    group, split, channel, row = place(splits, channels, BLOCK_R, BLOCK_C)
    inside = channel < channels
    plain, product = added(parts, group, groups, splits, channels, channel, SPLITS)
    if (split == 0) & (group == 0):
        d_bias = tl.zeros((BLOCK_C,), tl.float32)
        d_weight = tl.zeros((BLOCK_C,), tl.float32)
        for i in range(groups):
            its_plain, its_product = added(parts, i, groups, splits, channels, channel, SPLITS)
            d_bias += its_plain
            d_weight += its_product
        tl.store(sums + channel, d_bias, inside)
        tl.store(sums + channels + channel, d_weight, inside)
    mean = tl.load(saved + group * channels + channel, inside, 0.0)
    rstd = tl.load(saved + (groups + group) * channels + channel, inside, 0.0)
    scale = rstd
    if weight is not None:
        scale *= tl.load(weight + channel, inside, 0.0).to(tl.float32)
    plain /= length
    slope = product / length * rstd
    rows = tl.minimum(chunk, length - split * chunk)
    base = first_row(group, length, split, chunk) * channels
    within = row[:, None] * channels + channel[None, :]
    for done in range(0, rows, BLOCK_R):
        valid = (row < rows - done)[:, None] & inside[None, :]
        grad = tl.load(dy + base + within, valid, 0.0).to(tl.float32)
        value = tl.load(x + base + within, valid, 0.0).to(tl.float32)
        grad = grad - plain[None, :] - (value - mean[None, :]) * slope[None, :]
        tl.store(dx + base + within, (grad * scale[None, :]).to(dx.dtype.element_ty), valid)
        base += BLOCK_R * channels


@triton.jit
@no_type_check
def place(splits, channels, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return this program's group, chunk and channels, and the rows of a tile.

    Neighbouring programs read neighbouring channels of the same rows.
    """
    tiles = tl.cdiv(channels, BLOCK_C)
    program = tl.program_id(0)
    channel = program % tiles * BLOCK_C + tl.arange(0, BLOCK_C)
    chunk = program // tiles
    return chunk // splits, chunk % splits, channel, tl.arange(0, BLOCK_R)


@triton.jit
@no_type_check
def first_row(group, length, split, chunk):
    """Return the number of the first row of a group's chunk, in 64 bits."""
    return group.to(tl.int64) * length + split * chunk


@triton.jit
@no_type_check
def moments(
    parts, group, groups, length, chunk, splits, channels, channel, SPLITS: tl.constexpr
):  # fmt: skip
    """Combine the mean and sum of squared deviations of a group's chunks (Chan et al. 1979)."""
    split = tl.arange(0, SPLITS)
    count = tl.maximum(tl.minimum(chunk, length - split * chunk), 0).to(tl.float32)[:, None]
    here, valid = chunks(parts, group, split, splits, channels, channel)
    means = tl.load(here, valid, 0.0)
    mean = tl.sum(means * count, 0) / length
    from_mean = means - mean[None, :]
    squares = tl.load(here + groups * splits * channels, valid, 0.0)
    return mean, tl.sum(squares + count * from_mean * from_mean, 0)


@triton.jit
@no_type_check
def added(parts, group, groups, splits, channels, channel, SPLITS: tl.constexpr):
    """Return the sums over a group's chunks of both halves of ``parts``."""
    here, valid = chunks(parts, group, tl.arange(0, SPLITS), splits, channels, channel)
    second = tl.load(here + groups * splits * channels, valid, 0.0)
    return tl.sum(tl.load(here, valid, 0.0), 0), tl.sum(second, 0)


@triton.jit
@no_type_check
def chunks(parts, group, split, splits, channels, channel):
    """Return the addresses of the chunks of a group, (SPLITS, BLOCK_C), and which exist."""
    here = parts + (group * splits + split)[:, None] * channels + channel[None, :]
    return here, (split < splits)[:, None] & (channel < channels)[None, :]
