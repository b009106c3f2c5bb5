"""CLIM: each row, the anchor, mixed with one of its neighbours. Li 2020, arXiv:2011.02697.

A neighbour is drawn from a table, keyed by the anchor's row. The draw has no state: with the same
table, any loader, world size or resumed run draws the same neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from pipelines.augment.params import ViewParams
from pipelines.batch import Mixed
from pipelines.mixtures.base import LossKind, MixStep, Rows, Views
from pipelines.mixtures.clim_rules import Selection
from pipelines.mixtures.unmix import Placed, UnMix, generators, place
from pipelines.rng import RowRng
from pipelines.settings import Fallback
from pipelines.system.transfer import to_device

PICK = 1 << 19
"""The stream, numbered like a view, that picks a neighbour; its views have the next numbers."""


def neighbor_view(view: int) -> int:
    """Return the number that keys view ``view`` of an anchor's neighbour."""
    return PICK + 1 + view


@dataclass(frozen=True, eq=False)
class NeighborTable:
    """The neighbours of each anchor, ``rows[i, : count[i]]``, with equal probability.

    An anchor without neighbours is its own neighbour.
    """

    rows: NDArray[np.int32]  # (N, P)
    count: NDArray[np.int32]  # (N,)

    @classmethod
    def none(cls, num_rows: int) -> NeighborTable:
        """Return the table without neighbours."""
        return cls(np.zeros((num_rows, 0), np.int32), np.zeros(num_rows, np.int32))

    def draw(self, anchors: NDArray[np.int64], rng: RowRng) -> NDArray[np.int64]:
        """Draw a neighbor for each of the anchors' rows, (n,)."""
        chosen = anchors.copy()
        some = self.count[anchors] > 0
        place = _below(self.count[anchors], anchors, rng)
        chosen[some] = self.rows[anchors[some], place[some]]
        return chosen


@dataclass(frozen=True)
class RandomNeighbors:
    """The control: any other row of the data set, with equal probability."""

    num_rows: int

    def draw(self, anchors: NDArray[np.int64], rng: RowRng) -> NDArray[np.int64]:
        """Draw a neighbor for each of the anchors' rows, (n,)."""
        other = _below(np.full(len(anchors), self.num_rows - 1), anchors, rng)
        return other + (other >= anchors)


def _below(
    count: NDArray[np.integer], anchors: NDArray[np.int64], rng: RowRng
) -> NDArray[np.int64]:
    """Draw a number from 0 to ``count - 1`` for each anchor, (n,); 0 where the count is 0."""
    words = rng.bits(anchors, PICK, 1)[:, 0] >> np.uint64(32)
    return (words * count.astype(np.uint64) >> np.uint64(32)).astype(np.int64)


def tabulate(
    index: NDArray[np.int32], selection: Selection, fallback: Fallback
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return ``rows`` (n, k) and ``count`` (n,) of a table: the kept rows of ``index`` in order.

    If nothing is kept for an anchor, the fallback ``nearest`` keeps its nearest row; with the
    others the count is 0. Places beyond the count hold -1.
    """
    keep = selection.keep.copy()
    if fallback == "nearest":
        keep[~keep.any(axis=1), 0] = True
    front = np.argsort(~keep, axis=1, kind="stable")
    count = keep.sum(axis=1).astype(np.int32)
    rows = np.take_along_axis(index, front, axis=1)
    rows[np.arange(rows.shape[1]) >= count[:, None]] = -1
    return rows, count


@dataclass(frozen=True)
class Clim:
    """Each row, the anchor, mixed with one of its neighbours.

    Every view holds the n anchors, then their n neighbours. A neighbour's augmentation is keyed by
    the anchor, so a neighbour of two anchors is augmented differently for each.
    """

    loss: ClassVar[LossKind] = "neighbors"
    in_groups: ClassVar[bool] = True
    pairs_rows: ClassVar[bool] = False

    neighbors: NeighborTable | RandomNeighbors
    blend: UnMix = UnMix(0.0, 2.0)
    """Kind of mixture and distribution of lam; with ``per_group``, each group draws its own."""
    skip_self_paired: bool = False
    """Leave an anchor without neighbours unmixed, with a lam of 1."""

    def read_ahead(self, rows: Rows, rng: RowRng) -> Rows:
        """Return the rows of the anchors' neighbors."""
        return self.neighbors.draw(rows, rng)

    def plan(self, step: MixStep) -> ClimPlan:
        """Draw a neighbour for each anchor, its views, and the mixtures of the two."""
        anchors = step.rows
        rows = self.neighbors.draw(anchors, step.rng)
        params = [
            step.draw_params(i, rows, keys=anchors, number=neighbor_view(i))
            for i in range(len(step.views))
        ]
        group = step.group if self.blend.per_group else len(anchors)
        places = tuple((v, self._places(step, step.views[v].size)) for v in step.mixed)
        self_paired = torch.from_numpy(rows == anchors)
        return ClimPlan(rows, tuple(params), places, group, self_paired, self.skip_self_paired)

    def _places(self, step: MixStep, side: int) -> tuple[Placed, ...]:
        """Draw the box and lam of a view's mixture, for the whole batch or for each group."""
        return tuple(
            Placed.of(*place(side, side, self.blend.draw(rng), rng))
            for rng in generators(step, per_group=self.blend.per_group)
        )


@dataclass(frozen=True, slots=True)
class ClimPlan:
    """A step's neighbours and the mixtures with them, one for each ``group`` of anchors."""

    extra: Rows  # (n,) the neighbors
    params: tuple[ViewParams, ...]
    places: tuple[tuple[int, tuple[Placed, ...]], ...]
    group: int
    self_paired: Bool[Tensor, " n"]  # anchors that are their own neighbours
    skip_self_paired: bool

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors."""
        yield self.self_paired

    def to(self, device: torch.device) -> ClimPlan:
        """Return the plan on ``device``; the host never waits."""
        return replace(self, self_paired=to_device(self.self_paired, device))

    def apply(self, views: Views) -> tuple[Views, tuple[Mixed, ...]]:
        """Return the unchanged views, (2n, c, h, w) each, and the mixture of each mixed view.

        ``partner`` is the neighbour's row in a view, n + i. A ``self_paired`` anchor is mixed with
        another view of itself, and its partner is its own row, so that both shares have one key.
        """
        return views, tuple(self._mix(views[v], v, placed) for v, placed in self.places)

    def _mix(
        self, view: Float[Tensor, "two_n c h w"], number: int, placed: tuple[Placed, ...]
    ) -> Mixed:
        anchors, neighbors = view.chunk(2)
        groups = zip(anchors.split(self.group), neighbors.split(self.group), placed, strict=True)
        parts = [_blend(x, y, where) for x, y, where in groups]
        image, share = (torch.cat(p) if len(p) > 1 else p[0] for p in zip(*parts, strict=True))
        if self.skip_self_paired:
            image = torch.where(self.self_paired[:, None, None, None], anchors, image)
            share = torch.where(self.self_paired, torch.ones_like(share), share)
        own = torch.arange(len(anchors), device=view.device)
        return Mixed(number, image, torch.where(self.self_paired, own, own + len(anchors)), share)


def _blend(x: Tensor, y: Tensor, placed: Placed) -> tuple[Tensor, Tensor]:
    """Return ``x`` mixed with ``y``, and the measured share of ``x``, (n,)."""
    if isinstance(placed.where, tuple):
        top, bottom, left, right = placed.where
        image = x.clone()
        image[:, :, top:bottom, left:right] = y[:, :, top:bottom, left:right]
    else:
        image = torch.lerp(y, x, placed.lam)
    return image, x.new_full((len(x),), placed.lam)
