"""Whitening of embeddings in random sub-batches. Ermolov 2021, 2007.06346."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.losses.common import full_precision


@full_precision
def whiten(x: Float[Tensor, "k s d"]) -> Float[Tensor, "k s d"]:
    """Return each sub-batch's rows with mean 0 and the identity for covariance.

    ``L^-1 (x_i - mean)`` with ``L L^T = sum_i (x_i - mean) (x_i - mean)^T / (s - 1)``, L lower
    triangular. As in the published code nothing is added to the covariance: a sub-batch without
    ``d + 1`` rows in general position has no L, and its rows are NaN. That waits for no device,
    and a run stops at its next log line with the name of the step.

    Args:
        x: k sub-batches of s rows.
    """
    centred = x - x.mean(1, keepdim=True)
    covariance = centred.mT @ centred / (x.shape[1] - 1)
    lower, failed = torch.linalg.cholesky_ex(covariance)
    lower = lower.masked_fill(failed[:, None, None] != 0, torch.nan)
    return torch.linalg.solve_triangular(lower, centred.mT, upper=False).mT


def whiten_in(x: Float[Tensor, "n d"], order: Int[Tensor, " n"], size: int) -> Float[Tensor, "n d"]:
    """Return the rows whitened in sub-batches of ``size`` rows, cut off one by one in ``order``."""
    white = whiten(x[order].unflatten(0, (-1, size)))
    return white.flatten(0, 1)[order.argsort()]


def with_partners(place: Int[Tensor, " n"], partner: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Return an order of the rows in which a row and its partner are neighbours.

    So they are in one sub-batch of even size, and the reversed mixture's rows, whitened, are the
    mixture's, whitened and reversed.

    Args:
        place: a random permutation.
        partner: each row's partner, mutual; a row without one is its own.
    """
    return torch.minimum(place, place[partner]).argsort(stable=True)
