"""Numbers that tell a healthy representation from a collapsed one, for the log line."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def _wide(x: Tensor) -> Tensor:
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))


def feature_std(x: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Return ``sqrt(d)`` times the mean over dimensions of the std of the unit rows.

    0: all rows point the same way; 1: they spread evenly over the sphere. Source: Chen 2021,
    2011.10566, section 4.1 (there without ``sqrt(d)``).
    """
    return F.normalize(_wide(x), dim=1).std(0).mean() * x.shape[1] ** 0.5


def effective_rank(x: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Return ``exp(-sum_i s_i log s_i)``, s the singular values divided by their sum.

    From 1 to min(n, d). Source: Roy and Vetterli 2007, "The effective rank".
    """
    x = _wide(x)
    # The smaller Gram matrix has the squared singular values and is many times quicker.
    gram = (x @ x.T if len(x) < x.shape[1] else x.T @ x).double()
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    share = values / values.sum()
    return torch.special.entr(share).sum().exp()


def prototype_usage(scores: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
    """Return how evenly the rows spread over prototypes, in (0, 1].

    ``exp(entropy) / min(n, k)`` of the histogram of each row's best prototype; 1: as even as n
    rows allow.
    """
    best = scores.argmax(1)
    count = torch.zeros_like(scores[0], dtype=torch.float32).index_add_(
        0, best, torch.ones_like(best, dtype=torch.float32)
    )
    return torch.special.entr(count / len(best)).sum().exp() / min(scores.shape)
