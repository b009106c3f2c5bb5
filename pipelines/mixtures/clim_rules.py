"""CLIM's rules: which of its nearest rows an anchor is mixed with. Li 2020, arXiv:2011.02697.

The rules are pure functions; ``models.clustering`` computes their input. Similarities are cosines
of unit rows, and ``1 - similarity`` to a centre is a row's radius. The text of the paper was not
available: ``center`` is the literal reading of its abstract, ``ranked`` follows code of the same
group for a sister paper (docs/mixtures.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RANKED = 5
"""Default number of neighbours that ``ranked`` keeps."""


@dataclass(frozen=True)
class Candidates:
    """n anchors and the k rows nearest to each, nearest first, without the anchor itself."""

    index: NDArray[np.int32]  # (n, k) row numbers
    similarity: NDArray[np.floating]  # (n, k) to the anchor
    to_center: NDArray[np.floating]  # (n, k) to the centre of the anchor's cluster
    cluster: NDArray[np.int32]  # (n, k) the candidate's own cluster
    to_own_center: NDArray[np.floating]  # (n, k) to the centre of the candidate's cluster
    anchor_cluster: NDArray[np.int32]  # (n,)
    anchor_to_center: NDArray[np.floating]  # (n,) of the anchor to its cluster's centre

    @property
    def same_cluster(self) -> NDArray[np.bool_]:
        """Whether a candidate shares the anchor's cluster, (n, k)."""
        return np.equal(self.cluster, self.anchor_cluster[:, None])

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Whether a candidate is nearer to the anchor's centre than the anchor is, (n, k)."""
        return self.to_center > self.anchor_to_center[:, None]


@dataclass(frozen=True)
class Selection:
    """The kept candidates, and the anchors for which the rule found too few."""

    keep: NDArray[np.bool_]  # (n, k)
    short: NDArray[np.bool_]  # (n,)


def center(candidates: Candidates) -> NDArray[np.bool_]:
    """Keep j if ``1 - h_j . v_c(i) < 1 - h_i . v_c(i)``: inside the anchor's radius (rule A)."""
    return candidates.inside


def center_same(candidates: Candidates) -> NDArray[np.bool_]:
    """Keep the candidates of rule A that are in the anchor's own cluster."""
    return candidates.inside & candidates.same_cluster


def knn(candidates: Candidates) -> NDArray[np.bool_]:
    """Keep all candidates: plain nearest neighbours."""
    return np.ones(candidates.index.shape, bool)


def cluster(candidates: Candidates) -> NDArray[np.bool_]:
    """Keep all candidates in the anchor's own cluster."""
    return candidates.same_cluster


MASKS: dict[str, Callable[[Candidates], NDArray[np.bool_]]] = {
    "centre": center,
    "centre-same": center_same,
    "knn": knn,
    "cluster": cluster,
}
"""Rules that judge each candidate separately."""


def select(candidates: Candidates, rule: str, limit: int | None = None) -> Selection:
    """Keep candidates by a rule, at most the ``limit`` nearest of each anchor.

    An anchor is short if nothing is kept (with ``ranked``: if other rows were added).

    Raises:
        ValueError: there is no rule of that name for candidates.
    """
    if rule == "ranked":
        return ranked(candidates, limit or RANKED)
    if rule not in MASKS:
        raise ValueError(f"--clim.rule {rule}: choose one of {', '.join([*MASKS, 'ranked'])}")
    keep = MASKS[rule](candidates)
    if limit is not None:
        keep &= np.cumsum(keep, axis=1) <= limit
    return Selection(keep, np.equal(np.count_nonzero(keep, axis=1), 0))


def ranked(candidates: Candidates, limit: int) -> Selection:
    """Keep the ``limit`` rows of the anchor's cluster that are nearest to its centre (rule B).

    If there are too few, the nearest other rows are added. The anchor's radius is not used.
    """
    same = candidates.same_cluster
    k = same.shape[1]
    # rows of the cluster by their radius, in [0, 2]; then the others, nearest first
    key = np.where(same, 1.0 - candidates.to_own_center, 3.0 + np.arange(k))
    first = np.argsort(key, axis=1, kind="stable")[:, :limit]
    keep = np.zeros(same.shape, bool)
    np.put_along_axis(keep, first, True, axis=1)
    return Selection(keep, np.less(np.count_nonzero(same, axis=1), min(limit, k)))


def purity(
    index: NDArray[np.int32], keep: NDArray[np.bool_], anchor: NDArray[np.int64],
    label: NDArray[np.int64],
) -> float:  # fmt: skip
    """Return the share of kept pairs whose labels agree; for the log only.

    Pairs in which a label is missing do not count; NaN if none is left.

    Args:
        index: candidates of each anchor, (n, k).
        keep: which of them count, (n, k).
        anchor: the anchors' rows, (n,).
        label: label of every row of the data set, (N,); -1 is none.
    """
    mine, theirs = label[anchor][:, None], label[index]
    known = keep & (mine >= 0) & (theirs >= 0)
    pairs = int(known.sum())
    return float((known & (mine == theirs)).sum() / pairs) if pairs else float("nan")
