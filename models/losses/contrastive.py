"""Losses as pure functions of rows: one value per row, no process group, at least fp32.

The mean over rows is taken once, by the method; that is what lets a mixture weight rows. Where a
loss looks across the batch, the rows of all ranks are passed in (``all_*``) with the place of each
local row among them (``position``).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.losses.common import full_precision


@full_precision
def log_negatives(
    q: Float[Tensor, "n d"], queue: Float[Tensor, "k d"], temperature: float
) -> Float[Tensor, " n"]:
    """Return ``log sum_j exp(q . queue_j / temperature)``, what one query's softmaxes share."""
    return (q @ queue.T / temperature).logsumexp(1)


@full_precision
def info_nce(
    q: Float[Tensor, "n d"],
    k: Float[Tensor, "n d"],
    negatives: Float[Tensor, " n"],
    temperature: float,
) -> Float[Tensor, " n"]:
    """Return ``-log( e^(q.k/T) / (e^(q.k/T) + sum_j e^(q.queue_j/T)) )`` for unit rows.

    ``negatives`` is ``log_negatives(q, queue, T)``: a mixture meets two keys with one queue, so it
    is worked out once. Source: He 2020, 1911.05722, eq. 1.
    """
    positive = (q * k).sum(1) / temperature
    return torch.logaddexp(positive, negatives) - positive


def _log_contrast(
    anchor: Tensor, same: Tensor, other: Tensor, position: Tensor, temperature: float
) -> Tensor:
    """Log-softmax of local anchors over (other | same), themselves left out, (n, 2m)."""
    to_other = anchor @ other.T / temperature
    to_same = anchor @ same.T / temperature
    to_same = to_same.scatter(1, position[:, None], -torch.inf)
    return torch.cat([to_other, to_same], 1).log_softmax(1)


@full_precision
def nt_xent(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "n d"],
    all_a: Float[Tensor, "m d"],
    all_b: Float[Tensor, "m d"],
    position: Int[Tensor, " n"],
    temperature: float,
) -> Float[Tensor, " n"]:
    """Return NT-Xent over 2m unit rows, the mean of both directions, for the local rows.

    With ``l(u_i, v_i) = -log( e(u_i.v_i) / (sum_j e(u_i.v_j) + sum_{j != i} e(u_i.u_j)) )`` and
    ``e(s) = exp(s / T)`` it is ``(l(a_i, b_i) + l(b_i, a_i)) / 2``. Source: Chen 2020, 2002.05709,
    eq. 1.
    """
    from_a = _log_contrast(a, all_a, all_b, position, temperature)
    from_b = _log_contrast(b, all_b, all_a, position, temperature)
    return -(from_a + from_b).gather(1, position[:, None]).squeeze(1) / 2


@full_precision
def nt_xent_on_mixture(
    m: Float[Tensor, "n d"],
    k: Float[Tensor, "n d"],
    all_m: Float[Tensor, "m d"],
    all_k: Float[Tensor, "m d"],
    position: Int[Tensor, " n"],
    partner: Int[Tensor, " n"],
    lam: Float[Tensor, " n"],
    temperature: float,
) -> Float[Tensor, " n"]:
    """Return NT-Xent between mixtures ``m`` and clean rows ``k`` with soft targets.

    ``lam_i (l(m_i, k_i) + l(k_i, m_i)) / 2 + (1 - lam_i) (l(m_i, k_j) + l(k_j, m_i)) / 2``,
    ``j = partner_i``: what ``lam M(k, m) + (1 - lam) M(k, reversed m)`` sums to, on one set of
    logits. Source: Shen 2022, 2003.05438.
    """
    i = torch.arange(len(m), device=m.device)
    from_m = _log_contrast(m, all_m, all_k, position, temperature)
    from_k = _log_contrast(k, all_k, all_m, position, temperature)
    own = from_m[i, position] + from_k[i, position]
    partners = from_m[i, position[partner]] + from_k[partner, position]
    return -(lam * own + (1 - lam) * partners) / 2
