"""Sinkhorn codes and the cross-entropy of assignments (SwAV). Caron 2020, 2006.09882."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from models.losses.common import full_precision


@torch.no_grad()
@full_precision
def sinkhorn(scores: Float[Tensor, "n k"], epsilon: float, iterations: int) -> Float[Tensor, "n k"]:
    """Return codes: rows that sum to 1 while the columns have (nearly) equal sums.

    Start from ``exp(scores / epsilon)``; each iteration divides the columns by their sums, then
    the rows by theirs. A row of -inf takes no part (its code is 0). Source: Caron 2020, 2006.09882,
    eq. 5 (Cuturi 2013).
    """
    tiny = torch.finfo(scores.dtype).tiny
    codes = ((scores - scores.max()) / epsilon).exp()
    for _ in range(iterations):
        codes = codes / codes.sum(0, keepdim=True).clamp_min(tiny)
        codes = codes / codes.sum(1, keepdim=True).clamp_min(tiny)
    return codes


@full_precision
def log_assignment(scores: Float[Tensor, "n k"], temperature: float) -> Float[Tensor, "n k"]:
    """Return ``log softmax(scores / temperature)``, a row's predicted assignment."""
    return (scores / temperature).log_softmax(1)


@full_precision
def swav(code: Float[Tensor, "n k"], log_p: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """Return the cross-entropy ``-sum_k code_k log p_k``. Source: Caron 2020, 2006.09882, eq. 2."""
    return -(code * log_p).sum(1)
