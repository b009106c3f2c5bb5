"""CLIM's neighbours at a step: which row stands beside an anchor, and the mixture of the two.

A table of eligible rows and a draw keyed by the anchor's row: no state, so any loader, world size
or resume sees the same neighbours while the table is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from pipelines.augment.params import ViewParams, draw_params
from pipelines.batch import Mixed
from pipelines.mixtures.clim_rules import Selection
from pipelines.mixtures.unmix import Mixture, place
from pipelines.rng import RowRng
from pipelines.settings import Fallback
from pipelines.sources.table import Table
from pipelines.views import View

PICK = 1 << 19
"""The stream, counted like a view, that picks a neighbour; its own views have the numbers after."""


def neighbor_view(view: int) -> int:
    """Return the number under which an anchor draws view ``view`` of its neighbour."""
    return PICK + 1 + view


@dataclass(frozen=True, eq=False)
class NeighborTable:
    """The rows each anchor may be mixed with, ``rows[i, : count[i]]``, equally likely.

    An anchor without any is its own neighbour.
    """

    rows: NDArray[np.int32]  # (N, P)
    count: NDArray[np.int32]  # (N,)

    @classmethod
    def none(cls, num_rows: int) -> NeighborTable:
        """Return the table in which every anchor is alone."""
        return cls(np.zeros((num_rows, 0), np.int32), np.zeros(num_rows, np.int32))

    def draw(self, anchors: NDArray[np.int64], draws: RowRng) -> NDArray[np.int64]:
        """Draw a neighbour for each of the anchors' rows, (n,)."""
        chosen = anchors.copy()
        some = self.count[anchors] > 0
        place = _below(self.count[anchors], anchors, draws)
        chosen[some] = self.rows[anchors[some], place[some]]
        return chosen


@dataclass(frozen=True)
class RandomNeighbors:
    """Every other row of the data set is equally likely: the comparator without neighbours."""

    num_rows: int

    def draw(self, anchors: NDArray[np.int64], draws: RowRng) -> NDArray[np.int64]:
        """Draw a neighbour for each of the anchors' rows, (n,)."""
        other = _below(np.full(len(anchors), self.num_rows - 1), anchors, draws)
        return other + (other >= anchors)


def _below(
    count: NDArray[np.integer], anchors: NDArray[np.int64], draws: RowRng
) -> NDArray[np.int64]:
    """Draw a number from 0 to ``count - 1`` for each anchor, (n,); 0 where the count is 0."""
    words = draws.bits(anchors, PICK, 1)[:, 0] >> np.uint64(32)
    return (words * count.astype(np.uint64) >> np.uint64(32)).astype(np.int64)


def draw_neighbors(
    neighbours: NeighborTable | RandomNeighbors,
    anchors: NDArray[np.int64],
    draws: RowRng,
    views: Sequence[View],
    table: Table,
) -> tuple[NDArray[np.int64], list[ViewParams]]:
    """Draw a neighbour's row for each anchor (n,), and what happens to it in each view.

    All draws are keyed by the anchor, so a row that is beside two anchors looks different.
    """
    rows = neighbours.draw(anchors, draws)
    size = table.height[rows], table.width[rows]
    return rows, [
        draw_params(v, neighbor_view(i), draws, anchors, *size) for i, v in enumerate(views)
    ]


def concatenate_params(a: ViewParams, b: ViewParams) -> ViewParams:
    """Return the draws of some rows and of others after them."""
    pairs = ((getattr(a, f.name), getattr(b, f.name)) for f in fields(ViewParams))
    return ViewParams(*(np.concatenate(pair) for pair in pairs))


def tabulate(
    index: NDArray[np.int32], selection: Selection, fallback: Fallback
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return ``rows`` (n, k) and ``count`` (n,) of a table: the kept of ``index``, nearest first.

    Where nothing is kept, ``nearest`` takes the nearest row; otherwise the count is 0. Places
    beyond the count hold -1.
    """
    keep = selection.keep.copy()
    if fallback == "nearest":
        keep[~keep.any(axis=1), 0] = True
    front = np.argsort(~keep, axis=1, kind="stable")
    count = keep.sum(axis=1).astype(np.int32)
    rows = np.take_along_axis(index, front, axis=1)
    rows[np.arange(rows.shape[1]) >= count[:, None]] = -1
    return rows, count


def mix_neighbors(
    mixture: Mixture,
    view: Float[Tensor, "two_n c h w"],
    alone: Bool[Tensor, " n"],
    *,
    number: int,
    seed: int,
    step: int,
    skip: bool = False,
    group: int | None = None,
    first_group: int = 0,
) -> Mixed:
    """Mix the first half of a view's rows, the anchors, with the second, their neighbours.

    ``partner`` is the neighbour's row in a view, n + i. An anchor that is ``alone`` is mixed with
    another view of itself, and its partner is itself: both shares meet one key. With ``skip`` it
    is left as it is, with a share of 1.

    Args:
        mixture: kind and law of the share; its draw is keyed by (seed, step).
        view: the batch's view ``number``, 2n rows; left untouched.
        alone: which anchors are their own neighbours.
        number: of the view.
        seed: of the run.
        step: of the run.
        skip: leave anchors that are alone unmixed.
        group: rows of a group, each of which draws its own mixture, keyed by (seed, step, group).
        first_group: the number of the first group of these rows.
    """
    anchors, neighbours = view.chunk(2)
    n = len(anchors)
    if group is None:
        image, share = _blend(mixture, anchors, neighbours, np.random.default_rng([seed, step]))
    else:
        parts = [
            _blend(mixture, x, y, np.random.default_rng([seed, step, first_group + i]))
            for i, (x, y) in enumerate(
                zip(anchors.split(group), neighbours.split(group), strict=True)
            )
        ]
        image, share = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
    if skip:
        image = torch.where(alone[:, None, None, None], anchors, image)
        share = torch.where(alone, torch.ones_like(share), share)
    own = torch.arange(n, device=view.device)
    return Mixed(number, image, torch.where(alone, own, own + n), share)


def _blend(
    mixture: Mixture, x: Tensor, y: Tensor, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return ``x`` mixed with ``y`` and the measured share of ``x``, (n,)."""
    box, share = place(x.shape[2], x.shape[3], mixture.draw(rng), rng)
    if box is None:
        image = torch.lerp(y, x, share)
    else:
        top, bottom, left, right = box
        image = x.clone()
        image[:, :, top:bottom, left:right] = y[:, :, top:bottom, left:right]
    return image, x.new_full((len(x),), share)
