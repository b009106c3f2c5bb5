"""Soft assignments of rows to prototypes and their cross-entropy. Caron 2020, 2006.09882."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from models.losses.common import full_precision


@full_precision
def log_assignment(scores: Float[Tensor, "n k"], temperature: float) -> Float[Tensor, "n k"]:
    """Return ``log softmax(scores / temperature)``, the predicted assignment of each row."""
    return (scores / temperature).log_softmax(1)


@full_precision
def cross_entropy(code: Float[Tensor, "n k"], log_p: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """Return ``-sum_k code_k log p_k``. Source: Caron 2020, 2006.09882, eq. 2.

    >>> import torch
    >>> cross_entropy(torch.eye(2), torch.tensor([[0.5, 0.5], [1.0, 0.0]]).clamp_min(0.25).log())
    tensor([0.6931, 1.3863])
    """
    return -(code * log_p).sum(1)
