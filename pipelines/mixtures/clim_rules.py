"""CLIM's rules: which of an anchor's nearest rows it may be mixed with. Li 2020, arXiv:2011.02697.

Pure functions of numbers; who finds the numbers is ``models.clustering``. Similarities are cosines
of unit rows, so ``1 - similarity`` to a centre is a row's radius there. The paper's text could not
be read: ``center`` is the literal reading of its abstract, ``ranked`` follows code of the same
group for a sister paper (docs/mixtures.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RANKED = 5
"""Neighbours that ``ranked`` keeps unless told otherwise."""


@dataclass(frozen=True)
class Candidates:
    """What is known of n anchors and the k rows nearest to each, nearest first, never itself."""

    index: NDArray[np.int32]  # (n, k) row numbers
    similarity: NDArray[np.floating]  # (n, k) to the anchor
    to_center: NDArray[np.floating]  # (n, k) to the centre of the anchor's cluster
    cluster: NDArray[np.int32]  # (n, k) the candidate's own cluster
    to_own_center: NDArray[np.floating]  # (n, k) and its similarity to that one's centre
    anchor_cluster: NDArray[np.int32]  # (n,)
    anchor_to_center: NDArray[np.floating]  # (n,) of the anchor to its own centre

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
    """Which candidates are kept, and whether the rule found too few of them by itself."""

    keep: NDArray[np.bool_]  # (n, k)
    short: NDArray[np.bool_]  # (n,)


def center(candidates: Candidates) -> NDArray[np.bool_]:
    """Keep j if ``1 - h_j . v_c(i) < 1 - h_i . v_c(i)``: inside the anchor's radius (rule A)."""
    return candidates.inside


def center_same(candidates: Candidates) -> NDArray[np.bool_]:
    """Keep what rule A keeps of the anchor's own cluster."""
    return candidates.inside & candidates.same_cluster


def knn(candidates: Candidates) -> NDArray[np.bool_]:
    """Keep all: nearest neighbours alone."""
    return np.ones(candidates.index.shape, bool)


def cluster(candidates: Candidates) -> NDArray[np.bool_]:
    """Keep the neighbours of the anchor's own cluster, wherever they are in it."""
    return candidates.same_cluster


MASKS: dict[str, Callable[[Candidates], NDArray[np.bool_]]] = {
    "centre": center,
    "centre-same": center_same,
    "knn": knn,
    "cluster": cluster,
}
"""Rules that look at one candidate at a time."""


def select(candidates: Candidates, rule: str, limit: int | None = None) -> Selection:
    """Choose among the candidates; at most ``limit`` of each anchor's, the nearest ones.

    An anchor is short when nothing is kept (``ranked``: when the list had to be topped up).

    Raises:
        ValueError: no rule of that name looks at candidates.
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

    Too few are topped up with the nearest other rows. The anchor's own radius plays no part.
    """
    same = candidates.same_cluster
    k = same.shape[1]
    # own radii of the cluster's rows in [0, 2], then the others in the order of their distance
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

    Pairs without a label on either side do not count; NaN if none is left.

    Args:
        index: rows beside each anchor, (n, k).
        keep: which of them count, (n, k).
        anchor: the anchors' rows, (n,).
        label: of every row of the data set, (N,); -1 is none.
    """
    mine, theirs = label[anchor][:, None], label[index]
    known = keep & (mine >= 0) & (theirs >= 0)
    pairs = int(known.sum())
    return float((known & (mine == theirs)).sum() / pairs) if pairs else float("nan")
