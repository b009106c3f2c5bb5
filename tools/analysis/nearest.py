"""The nearest neighbors of chosen images, and how many are of the query's class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.neighbors import nearest_rows


@dataclass(frozen=True)
class Neighbors:
    """The k nearest rows of a bank for each query, nearest first, and their cosines; (n, k)."""

    index: NDArray[np.int64]
    similarity: NDArray[np.float32]


def nearest(
    queries: NDArray[np.float32],
    bank: NDArray[np.float32],
    k: int,
    own: NDArray[np.int64] | None = None,
) -> Neighbors:
    """Return the k rows of ``bank`` (m, d) most similar to each of ``queries`` (n, d) by cosine.

    ``own`` (n,) holds each query's own row in the bank, which is left out.

    Raises:
        ValueError: the bank has fewer than k other rows.
    """
    most = len(bank) - (own is not None)
    if not 1 <= k <= most:
        raise ValueError(f"--k {k} must be between 1 and the {most:,} images searched")
    similarity, index = nearest_rows(
        torch.from_numpy(queries),
        torch.from_numpy(bank),
        k,
        own=None if own is None else torch.from_numpy(own),
    )
    return Neighbors(index.numpy(), similarity.numpy())


def same_class(
    found: Neighbors, queries: NDArray[np.int64], bank: NDArray[np.int64]
) -> NDArray[np.int8]:
    """Return 1 where a neighbor has the query's label, 0 where it has another, else -1; (n, k).

    ``queries`` (n,) and ``bank`` (m,) are labels; -1 means no label.
    """
    theirs, own = bank[found.index], queries[:, None]
    same = (theirs == own).astype(np.int8)
    return np.where((theirs < 0) | (own < 0), np.int8(-1), same)


def describe(marks: NDArray[np.int8]) -> str:
    """Return the share of neighbors that are of the query's class, in words."""
    known = marks[marks >= 0]
    if not len(known):
        return "no labels"
    return f"{known.mean():.1%} of the neighbours are of the query's class"
