"""The windows of a decoder's call, grouped by image, with their places in the output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.decoders import Crops
from pipelines.decoders.resample import FILTER_IDS, cut_channels
from pipelines.settings import Interpolation
from pipelines.sources.table import Table
from pipelines.system.buffer_pool import pooled_empty
from pipelines.system.jit import jit


@dataclass(frozen=True, slots=True)
class CropPlan:
    """The windows of a call: those of the image in row ``rows[i]`` are ``first[i] : first[i + 1]``.

    Window ``c`` is ``box[c]``, resized to ``side[c]`` pixels and written from byte ``at[c]`` of
    ``out``, which holds all views consecutively.
    """

    rows: NDArray[np.int64]  # (d,) distinct
    first: NDArray[np.int64]  # (d + 1,)
    box: NDArray[np.int64]  # (k, 4)
    side: NDArray[np.int64]  # (k,)
    at: NDArray[np.int64]  # (k,)
    out: NDArray[np.uint8]  # (bytes,), the memory of ``views``
    views: list[Tensor]  # each (k_v, size, size, c) uint8


def make_plan(
    table: Table, rows: NDArray[np.int64], crops: Sequence[Crops], *, pin: bool = False
) -> CropPlan:
    """Sort the windows by image and allocate the crops (page-locked with ``pin``).

    Raises:
        ValueError: a row is not in the table, a ``take`` not in ``rows``, or a box not inside its
            image.
    """
    check_windows(table, rows, crops)
    distinct, inverse = np.unique(rows, return_inverse=True)
    image = np.concatenate([np.empty(0, np.int64), *(inverse[view.take] for view in crops)])
    box = np.concatenate([np.empty((0, 4), np.int64), *(view.box for view in crops)])
    side = np.concatenate([np.empty(0, np.int64), *(np.full(len(v.take), v.size) for v in crops)])
    at = np.concatenate([[0], np.cumsum(table.channels * side * side)]).astype(np.int64)
    memory = pooled_empty((int(at[-1]),), torch.uint8, pin=pin)
    order = np.argsort(image, kind="stable")
    first = np.searchsorted(image[order], np.arange(len(distinct) + 1)).astype(np.int64)
    views = _split(memory, crops, table.channels)
    return CropPlan(distinct, first, box[order], side[order], at[:-1][order], memory.numpy(), views)


def check_windows(table: Table, rows: NDArray[np.int64], crops: Sequence[Crops]) -> None:
    """Refuse windows that would let compiled code read out of bounds; see ``make_plan``."""
    if len(rows) and not (rows.min() >= 0 and rows.max() < len(table)):
        raise ValueError(f"rows must be in 0..{len(table) - 1}, got {rows.min()}..{rows.max()}")
    for view in crops:
        if view.size < 1 or view.box.shape != (len(view.take), 4):
            raise ValueError(f"size {view.size} and boxes {view.box.shape} make no crops")
        if len(view.take) and not (view.take.min() >= 0 and view.take.max() < len(rows)):
            raise ValueError(f"take must point into the {len(rows)} rows of the call")
        _check_boxes(table, rows[view.take], view.box)


def _check_boxes(table: Table, rows: NDArray[np.int64], box: NDArray[np.int32]) -> None:
    height, width = table.height[rows], table.width[rows]
    top, left, tall, wide = box.T.astype(np.int64)
    good = (top >= 0) & (left >= 0) & (tall > 0) & (wide > 0)
    good &= (top + tall <= height) & (left + wide <= width)
    if not good.all():
        j = int(np.argmin(good))
        raise ValueError(
            f"{table.source.name(int(rows[j]))}: box (top, left, height, width) = "
            f"{tuple(box[j].tolist())} is not inside {height[j]}x{width[j]} pixels"
        )


def _split(memory: Tensor, crops: Sequence[Crops], channels: int) -> list[Tensor]:
    shapes = [(len(view.take), view.size, view.size, channels) for view in crops]
    parts = memory.split([int(np.prod(shape)) for shape in shapes]) if shapes else ()
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def cut_image(
    plan: CropPlan,
    i: int,
    pixels: NDArray[np.uint8],
    interpolation: Interpolation,
    *,
    box: NDArray[np.int64] | None = None,
) -> None:
    """Cut the windows of the plan's image ``i`` from its pixels, (h, w, c).

    ``box`` replaces the plan's boxes of this image.
    """
    own = slice(int(plan.first[i]), int(plan.first[i + 1]))
    box = plan.box[own] if box is None else box
    filter_id, pixels = FILTER_IDS[interpolation], np.ascontiguousarray(pixels)
    cut_windows(pixels, 0, len(box), box, plan.side[own], plan.at[own], filter_id, plan.out)


@jit
@no_type_check
def cut_windows(pixels, begin, end, box, side, at, filter_id, out):
    """Cut windows ``begin`` to ``end`` of a plan from their image, (h, w, channels) uint8."""
    channels = pixels.shape[2]
    for c in range(begin, end):
        target = out[at[c] : at[c] + channels * side[c] * side[c]]
        target = target.reshape((side[c], side[c], channels))
        cut_channels(pixels, box[c, 0], box[c, 1], box[c, 2], box[c, 3], filter_id, target)
