"""Targets of mixtures among mixtures.

SDMP (Ren 2022, 2206.07692) and PatchMix (Shen 2023, 2306.12243) minimise three terms, with one view
(a) as the clean query and the other (b) mixed:

    CE(q(a), k(b)) + 1/2 CE(q(m_b), k(a); shares) + 1/2 CE(q(m_b), k(m_a); overlap)

and both of their targets for the last term are the overlap of two mixtures: how much of their
images they have in common.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from models.losses.common import full_precision
from pipelines.batch import Mixed


def overlap(query: Mixed, key: Mixed) -> Float[Tensor, "n n"]:
    """Return the share of the target of query mixture i that key mixture j has; rows sum to 1.

    With S(i, x) the share of image x in mixture i it is ``sum_x min(S(i, x), S(j, x))``, divided by
    the sum over all j. For SDMP this is (1, c) / (1 + c) on the row and its partner, with
    ``c = 1 - |lam_i + lam_partner - 1|``; for PatchMix of two images (1, 2, 1) / 4 on the rows
    before, at and after i. No row may be its own partner.
    """
    total = torch.zeros(
        len(query.lam), len(key.lam), dtype=query.lam.dtype, device=query.lam.device
    )
    for image, share in _contents(query):
        for other_image, other_share in _contents(key):
            common = torch.minimum(share[:, None], other_share)
            total += torch.where(image[:, None] == other_image, common, 0)
    return total / total.sum(1, keepdim=True)


def _contents(m: Mixed) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the two images of each mixture, by their rows, (n,), and their shares, (n,)."""
    own = torch.arange(len(m.partner), device=m.partner.device)
    return (own, m.lam), (m.partner, 1 - m.lam)


@full_precision
def mean_keys(targets: Float[Tensor, "n m"], keys: Float[Tensor, "m d"]) -> Float[Tensor, "n d"]:
    """Return the mean of the keys by each row's targets.

    A cross-entropy of cosines with soft targets needs nothing else of its positives: ``sum_j w_j (q
    . k_j) = q . sum_j w_j k_j``.
    """
    return targets @ keys
