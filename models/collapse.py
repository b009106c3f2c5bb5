"""Collapse monitors: statistics that tell a collapsed representation from a healthy one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from models.losses.common import full_precision


@torch.no_grad()
@full_precision
def feature_std(x: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Return ``sqrt(d)`` times the standard deviation of the unit rows, averaged over dimensions.

    0: all rows point in one direction. 1: they spread evenly over the sphere. Source: Chen 2021,
    2011.10566, section 4.1 (there without ``sqrt(d)``).

    >>> feature_std(torch.ones(4, 2))
    tensor(0.)
    """
    std: Tensor = F.normalize(x, dim=1).std(0).mean() * x.shape[1] ** 0.5
    return std


@torch.no_grad()
@full_precision
def effective_rank(x: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Return ``exp(-sum_i s_i log s_i)``, s the singular values divided by their sum.

    From 1 to min(n, d). Source: Roy and Vetterli 2007, "The effective rank".

    >>> round(float(effective_rank(torch.eye(3, 5))), 6)
    3.0
    """
    # The smaller Gram matrix has the squared singular values and is many times quicker.
    gram = (x @ x.T if len(x) < x.shape[1] else x.T @ x).double()
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    return _perplexity(values / values.sum())


def prototype_usage(scores: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
    """Return how evenly the rows spread over the prototypes, in (0, 1].

    ``exp(entropy) / min(n, k)`` of the histogram of each row's best prototype. 1: as evenly as n
    rows can.

    >>> prototype_usage(torch.eye(4))
    tensor(1.)
    """
    best = scores.argmax(1)
    count = torch.zeros_like(scores[0], dtype=torch.float32).index_add_(
        0, best, torch.ones_like(best, dtype=torch.float32)
    )
    return _perplexity(count / len(best)) / min(scores.shape)


def _perplexity(p: Tensor) -> Tensor:
    """Return ``exp(entropy)`` of a distribution."""
    entropy: Tensor = torch.special.entr(p).sum()
    return entropy.exp()
