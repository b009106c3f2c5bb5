"""Whitening of embeddings in random sub-batches. Ermolov 2021, 2007.06346."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.losses.common import full_precision


@full_precision
def whiten(x: Float[Tensor, "k s d"]) -> Float[Tensor, "k s d"]:
    """Return each sub-batch's rows with mean 0 and identity covariance.

    ``L^-1 (x_i - mean)`` with ``L L^T = sum_i (x_i - mean) (x_i - mean)^T / (s - 1)``, L lower
    triangular. As in the published code, nothing is added to the covariance. A sub-batch without
    ``d + 1`` rows in general position has no L, and its rows become NaN. The host does not wait for
    this; the run stops at its next log line and names the step.

    Args:
        x: k sub-batches of s rows.
    """
    centered = x - x.mean(1, keepdim=True)
    covariance = centered.mT @ centered / (x.shape[1] - 1)
    lower, failed = torch.linalg.cholesky_ex(covariance)
    lower = lower.masked_fill(failed[:, None, None] != 0, torch.nan)
    white: Tensor = torch.linalg.solve_triangular(lower, centered.mT, upper=False)
    return white.mT


def whiten_in(x: Float[Tensor, "n d"], order: Int[Tensor, " n"], size: int) -> Float[Tensor, "n d"]:
    """Return the rows, whitened in sub-batches of ``size`` consecutive rows of ``order``."""
    white = whiten(x[order].view(-1, size, x.shape[1]))
    return white.flatten(0, 1)[order.argsort()]


def with_partners(place: Int[Tensor, " n"], partner: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Return an order of the rows in which partners are next to each other.

    Partners then share a sub-batch of even size, so that whitening the reversed mixture equals
    reversing the whitened mixture.

    Args:
        place: a random permutation.
        partner: each row's partner, mutual; a row without one is its own.

    >>> order = with_partners(torch.tensor([2, 0, 3, 1]), torch.tensor([3, 2, 1, 0]))
    >>> order.tolist()  # the pairs are (1, 2) and (0, 3)
    [1, 2, 0, 3]
    """
    return torch.minimum(place, place[partner]).argsort(stable=True)
