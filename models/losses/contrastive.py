"""Contrastive losses: InfoNCE among a queue, NCE and softmax among rows of a memory bank."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from models.losses.common import full_precision

EPSILON = 1e-7
"""Added to the denominators of NCE, as in the published code."""


@full_precision
def log_negatives(
    q: Float[Tensor, "n d"], keys: Float[Tensor, "k d"], temperature: float
) -> Float[Tensor, " n"]:
    """Return ``log sum_j exp(q . keys_j / T)``, the part of the softmax without the positive."""
    return (q @ keys.T / temperature).logsumexp(1)


@full_precision
def info_nce(
    q: Float[Tensor, "n d"],
    k: Float[Tensor, "n d"],
    negatives: Float[Tensor, " n"],
    temperature: float,
) -> Float[Tensor, " n"]:
    """Return ``-log( e^(q.k/T) / (e^(q.k/T) + sum_j e^(q.queue_j/T)) )`` for unit rows.

    Source: He 2020, 1911.05722, eq. 1.

    Args:
        q: queries.
        k: the positive key of each query.
        negatives: ``log_negatives(q, queue, T)``. A mixture has two positives and one set of
            negatives, so this is computed once.
        temperature: T.

    >>> q, queue = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]] * 3)
    >>> info_nce(q, q, log_negatives(q, queue, 0.2), 0.2)  # log 4: a positive among four equal keys
    tensor([1.3863])
    """
    positive = (q * k).sum(1) / temperature
    return torch.logaddexp(positive, negatives) - positive


def info_nce_against(
    q: Float[Tensor, "n d"], queue: Float[Tensor, "k d"], temperature: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return ``info_nce`` of these queries with negatives from ``queue``: ``(q, k) -> (n,)``."""
    negatives = log_negatives(q, queue, temperature)
    return partial(info_nce, negatives=negatives, temperature=temperature)


def softmax_among(
    q: Float[Tensor, "n d"], candidates: Float[Tensor, "k d"], temperature: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the cross-entropy of these queries with one of the ``candidates``: ``(q, k) -> (n,)``.

    ``log sum_j e^(q.c_j/T) - q.k/T`` for unit rows. The key k is itself a candidate, so each
    positive of a mixture is compared with the other (Lee 2021, i-Mix, 2010.08887).
    """
    total = log_negatives(q, candidates, temperature)
    return partial(_cross_entropy, total=total, temperature=temperature)


@full_precision
def _cross_entropy(
    q: Float[Tensor, "n d"],
    k: Float[Tensor, "n d"],
    total: Float[Tensor, " n"],
    temperature: float,
) -> Float[Tensor, " n"]:
    return total - (q * k).sum(1) / temperature


@full_precision
def nce_loss(
    scores: Float[Tensor, "n k"], partition: Float[Tensor, ""], num_rows: int
) -> Float[Tensor, " n"]:
    """Return noise-contrastive estimation; the positive is in column 0.

    With K = k - 1 negatives, ``c = K / num_rows`` and ``x_j = exp(score_j) / Z``: ``-log(x_0 / (x_0
    + c + 1e-7)) - sum_{j > 0} log(c / (x_j + c + 1e-7))``. Source: Wu 2018, 1805.01978, eq. 5 to 7,
    as published with CMC.

    Args:
        scores: cosines divided by the temperature.
        partition: Z, a constant in place of the sum over all rows of the bank.
        num_rows: rows of the bank.
    """
    x = scores.exp() / partition
    noise = (scores.shape[1] - 1) / num_rows
    own = (x[:, 0] / (x[:, 0] + noise + EPSILON)).log()
    others = (noise / (x[:, 1:] + noise + EPSILON)).log().sum(1)
    return -own - others


@full_precision
def softmax_loss(scores: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """Return ``-log(exp(score_0) / sum_j exp(score_j))``."""
    return scores.logsumexp(1) - scores[:, 0]
