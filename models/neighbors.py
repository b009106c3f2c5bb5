"""Exact nearest neighbours: queries meet the bank block by block, and the k best are kept."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from models.settings.base import Distance

BLOCK = 2**16
"""Most bank rows compared at a time."""
PRODUCTS = 2**26
"""Most query-bank similarities held at a time: 256 MiB of float32."""
SMALL_BANK = 2**24
"""Numbers of a bank (64 MiB) below which memory does not count."""


class TopK:
    """The ``k`` most similar bank rows of ``num`` queries, kept up to date block by block.

    Among equals, rows of earlier blocks come first. Places that no row has filled yet hold index
    -1 and similarity -inf. ``value`` holds one more number for each kept pair, if blocks give it.
    """

    def __init__(self, num: int, k: int, like: Tensor) -> None:
        self.similarity: Float[Tensor, "num k"] = like.new_full((num, k), -torch.inf)
        self.index: Int[Tensor, "num k"] = like.new_full((num, k), -1, dtype=torch.int64)
        self.value: Float[Tensor, "num k"] = like.new_zeros((num, k))

    def add(
        self,
        similarity: Float[Tensor, "num block"],
        first_row: int,
        value_of: Callable[[Int[Tensor, "num kept"]], Float[Tensor, "num kept"]] | None = None,
    ) -> None:
        """Take in the similarities to the bank rows from ``first_row`` on.

        ``value_of`` maps columns of ``similarity``, those that may be kept, to their ``value``.
        """
        k = self.index.shape[1]
        top = similarity.topk(min(k, similarity.shape[1]))
        merged = torch.cat([self.similarity, top.values], 1)
        order = merged.sort(dim=1, descending=True, stable=True).indices[:, :k]
        self.similarity = merged.gather(1, order)
        self.index = torch.cat([self.index, top.indices + first_row], 1).gather(1, order)
        if value_of is not None:
            self.value = torch.cat([self.value, value_of(top.indices)], 1).gather(1, order)


@torch.no_grad()
def nearest_rows(
    queries: Float[Tensor, "n d"],
    bank: Float[Tensor, "m d"],
    k: int,
    *,
    own: Int[Tensor, " n"] | None = None,
    distance: Distance = "cosine",
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Return similarities and row numbers of each query's k nearest bank rows, nearest first.

    The similarity is the cosine, or minus the Euclidean distance. The bank is not copied, and may
    be stored in half precision; products are computed in float32. Beside the bank, the search holds
    less than 0.3 of its bytes, or of 64 MiB, and the queries once in float32.

    Args:
        queries: on the bank's device.
        bank: rows to search.
        k: neighbours of each query.
        own: each query's own row number in the bank, which is left out.
        distance: what "nearest" means.

    Raises:
        ValueError: the bank has fewer than ``k`` rows to choose from.
    """
    most = len(bank) - (own is not None)
    if not 1 <= k <= most:
        raise ValueError(f"k {k} must be between 1 and {most}, the rows to choose from")
    # Euclidean: far from the origin, differences of squares would lose digits
    block_rows, products = _portions(bank)
    offset = _mean(bank, block_rows) if distance == "euclidean" else None
    size = max(1, products // min(block_rows, len(bank)))
    chunks = _prepare(queries, offset).split(size)
    found = [TopK(len(chunk), k, chunk) for chunk in chunks]
    for number, rows in enumerate(bank.split(block_rows)):
        first = number * block_rows
        block = _prepare(rows, offset)
        squares = None if offset is None else block.square().sum(1)
        for i, (chunk, top) in enumerate(zip(chunks, found, strict=True)):
            similarity = chunk @ block.T
            if squares is not None:
                similarity = similarity.mul_(2).sub_(squares)
            if own is not None:
                column = own[i * size : i * size + len(chunk)] - first
                here = ((column >= 0) & (column < len(block))).nonzero()[:, 0]
                similarity[here, column[here]] = -torch.inf
            top.add(similarity, first)
    similarity = torch.cat([top.similarity for top in found])
    if offset is not None:
        squares = torch.cat([chunk.square().sum(1, keepdim=True) for chunk in chunks])
        similarity = -(squares - similarity).clamp(min=0).sqrt()
    return similarity, torch.cat([top.index for top in found])


def _portions(bank: Tensor) -> tuple[int, int]:
    """Return how many bank rows, and how many similarities, are held at a time.

    A block is prepared in two copies of itself at most; the similarities are merged in three.
    """
    if bank.numel() <= SMALL_BANK:
        return BLOCK, PRODUCTS
    rows = len(bank) * bank.itemsize // 64  # a sixteenth of a bank in float32
    return min(BLOCK, max(1, rows)), min(PRODUCTS, bank.nbytes // 128)


def _mean(bank: Tensor, block_rows: int) -> Tensor:
    """Return the mean row in float32; a bank in half precision is widened block by block."""
    if bank.dtype == torch.float32:
        return bank.mean(0)
    total = bank.new_zeros(bank.shape[1], dtype=torch.float32)
    for rows in bank.split(block_rows):
        total += rows.float().sum(0)
    return total / len(bank)


def _prepare(rows: Tensor, offset: Tensor | None) -> Tensor:
    """Return unit rows, or rows relative to ``offset``; float32."""
    rows = rows.float()
    return F.normalize(rows, dim=1) if offset is None else rows - offset
