"""Exact cosine neighbours and spherical k-means of features that are shared out over the ranks.

Everything is computed in fixed blocks of rows, whatever the number of ranks, and sums are integers
(fixed point), which have no order. So 1, 2 or 4 ranks of the same kind of machine give the same
tables, bit for bit. All ranks must call each function together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from models.distributed import rank, world_size
from models.losses.common import unit
from models.neighbors import TopK
from pipelines.system.tf32 import exact_products

BLOCK = 2048
"""Rows of a block; the last one may be short."""

Watch = Callable[[Sequence[Any], str], Iterable[Any]]
"""Goes through a sequence and shows how far it is: ``watch(items, what)``."""


def unwatched(items: Sequence[Any], what: str) -> Iterable[Any]:
    """Go through the items and show nothing."""
    return items


@dataclass(frozen=True, eq=False)
class Features:
    """``total`` unit rows, of which this rank holds whole blocks, ``rows``, in row order.

    They may be stored in half precision; products are computed in float32 or better.
    """

    rows: Float[Tensor, "own d"]
    total: int
    block: int = BLOCK

    def own_blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield this rank's blocks, each with the number of its first row."""
        own = own_range(self.total, self.block)
        for start in own[:: self.block]:
            yield start, widened(self._stored(start))

    def all_blocks(self, watch: Watch, what: str) -> Iterator[tuple[int, Tensor]]:
        """Yield every rank's blocks in row order, each with the number of its first row."""
        own = own_range(self.total, self.block)
        for start in watch(range(0, self.total, self.block), what):
            if start in own:
                block = self._stored(start)
            else:
                rows = min(self.block, self.total - start)
                block = self.rows.new_empty(rows, self.rows.shape[1])
            if world_size() > 1:
                dist.broadcast(block, owner_of(start, self.total, self.block))
            yield start, widened(block)

    def _stored(self, start: int) -> Tensor:
        first = start - own_range(self.total, self.block).start
        return self.rows[first : first + self.block]

    def take(self, numbers: Int[Tensor, " m"]) -> Float[Tensor, "m d"]:
        """Return the rows of these numbers, the same on every rank."""
        own = own_range(self.total, self.block)
        here = (numbers >= own.start) & (numbers < own.stop)
        rows = widened(self.rows.new_zeros(len(numbers), self.rows.shape[1]))
        rows[here] = widened(self.rows[numbers[here] - own.start])
        return _sum(rows)

    def join(self, own: Shaped[Tensor, "own ..."]) -> Shaped[Tensor, "total ..."]:
        """Return every rank's values, one a row of the features, in row order."""
        rows = own_range(self.total, self.block)
        joined = own.new_zeros(self.total, *own.shape[1:])
        joined[rows.start : rows.stop] = own
        return _sum(joined)


def widened(x: Tensor) -> Tensor:
    """Return the values in float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def own_range(total: int, block: int = BLOCK) -> range:
    """Return this rank's rows: whole blocks, nearly as many as any other's; perhaps none."""
    return _range_of(rank(), total, block)


def owner_of(row: int, total: int, block: int = BLOCK) -> int:
    """Return the rank that holds a row."""
    return next(r for r in range(world_size()) if row in _range_of(r, total, block))


def _range_of(who: int, total: int, block: int) -> range:
    blocks = -(-total // block)
    begin, end = (min(blocks * (who + i) // world_size() * block, total) for i in (0, 1))
    return range(begin, end)


def _sum(x: Tensor) -> Tensor:
    if world_size() > 1:
        dist.all_reduce(x)
    return x


@dataclass(frozen=True, eq=False)
class Clusters:
    """Unit centers, and each own row's cluster and its similarity to that center."""

    centers: Float[Tensor, "k d"]
    cluster: Int[Tensor, " own"]
    similarity: Float[Tensor, " own"]


@torch.no_grad()
def spherical_kmeans(
    features: Features,
    num_clusters: int,
    rng: np.random.Generator,
    iterations: int = 30,
    watch: Watch = unwatched,
) -> Clusters:
    """Cluster unit rows by cosine (Dhillon 2001): assign to the nearest center, average, normalise.

    The first centers are rows drawn by ``rng``, which must be the same on every rank. Empty
    clusters take over the rows farthest from their centers, the lowest number first among equals.
    """
    drawn = np.sort(rng.choice(features.total, num_clusters, replace=False))
    with exact_products():
        centers = features.take(torch.from_numpy(drawn).to(features.rows.device))
        for _ in watch(range(iterations), "k-means"):
            cluster, similarity = _assign(features, centers)
            centers = _average(features, centers, cluster, similarity)
        return Clusters(centers, *_assign(features, centers))


def _assign(features: Features, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Return each own row's nearest center and its similarity to it."""
    best = [(block @ centers.T).max(1) for _, block in features.own_blocks()]
    if not best:
        none = torch.empty(0, dtype=torch.int64, device=centers.device)
        return none, centers.new_empty(0)
    return torch.cat([b.indices for b in best]), torch.cat([b.values for b in best])


def _average(features: Features, before: Tensor, cluster: Tensor, similarity: Tensor) -> Tensor:
    """Return the unit means of the clusters' rows."""
    # sums in fixed point: the largest unit that no sum of components up to 1 can overflow
    scale = 2.0 ** (62 - features.total.bit_length())
    sums = torch.zeros(before.shape, dtype=torch.int64, device=before.device)
    for (_, block), of in zip(features.own_blocks(), cluster.split(features.block), strict=False):
        sums.index_add_(0, of, (block.double() * scale).round().long())
    means = _sum(sums).double()
    length = means.norm(dim=1, keepdim=True)
    centers = (means / length.clamp_min(1)).to(before.dtype)
    empty = (length[:, 0] == 0).nonzero()[:, 0]
    if len(empty):
        farthest = features.join(similarity).sort(stable=True).indices[: len(empty)]
        centers[empty] = features.take(farthest)
    return unit(centers)


@dataclass(frozen=True, eq=False)
class Nearest:
    """The k rows nearest to each own row, nearest first, and what a rule asks about them."""

    index: Int[Tensor, "own k"]
    similarity: Float[Tensor, "own k"]
    to_center: Float[Tensor, "own k"]
    """Of the neighbour to the center of the own row's cluster."""


@torch.no_grad()
def nearest(features: Features, clusters: Clusters, k: int, watch: Watch = unwatched) -> Nearest:
    """Return the exact k nearest rows of each own row by cosine; a row is left out by its number.

    Raises:
        ValueError: fewer than ``k`` other rows.
    """
    if k >= features.total:
        raise ValueError(f"--clim.neighbours {k} needs more than {features.total} images")
    clusters_of = clusters.cluster.split(features.block)
    found = [TopK(len(cluster), k, clusters.centers) for cluster in clusters_of]
    with exact_products():
        for start, bank in features.all_blocks(watch, "neighbours"):
            to_centers = bank @ clusters.centers.T  # (bank, clusters), as in the assignment
            for top, cluster, (first, block) in zip(
                found, clusters_of, features.own_blocks(), strict=False
            ):
                similarity = block @ bank.T
                if first == start:
                    similarity.fill_diagonal_(-torch.inf)
                top.add(similarity, start, partial(_to_own_center, to_centers, cluster))
    return Nearest(
        torch.cat([top.index for top in found]),
        torch.cat([top.similarity for top in found]),
        torch.cat([top.value for top in found]),
    )


def _to_own_center(to_centers: Tensor, cluster: Tensor, rows: Tensor) -> Tensor:
    """Return the similarity of each candidate (n, c) to the center of its query's cluster."""
    return to_centers[rows, cluster[:, None]]
