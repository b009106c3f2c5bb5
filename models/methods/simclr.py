"""SimCLR. Chen 2020, 2002.05709."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.distributed import gather, own_rows
from models.losses.common import full_precision, unit
from models.methods.base import Method, Setup
from models.modules import heads
from models.modules.backbone import num_features
from models.settings.simclr import SimclrConfig
from pipelines.batch import Batch


class Simclr(Method):
    """``L = M(x0, x1)``, M being NT-Xent over all ranks' rows of both views.

    A mixture m of x0 adds ``lam M(x1, m) + (1 - lam) M(x1, reversed m)`` as one cross-entropy with
    soft targets (Shen 2022, 2003.05438). x0, x1 and m are encoded once; the head is applied to both
    sides of a pair together.
    """

    def __init__(self, backbone: nn.Module, config: SimclrConfig, setup: Setup) -> None:
        width = num_features(backbone)
        sizes = (width, config.hidden or width, config.dim)
        norm, bias = config.head_bn, config.last_bias
        super().__init__(backbone, heads.mlp(*sizes, norm=norm, last_norm=norm, last_bias=bias))
        self.config = config

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the clean term and, with a mixture, the mixed one."""
        x0, x1 = batch.views
        h0, h1 = self.backbone(x0), self.backbone(x1)
        temperature = self.config.temperature
        position = own_rows(len(h0), h0.device)
        z0, z1 = self._project_pair(h0, h1)
        self.record_embeddings(h0, z0)
        loss = nt_xent(z0, z1, gather(z0), gather(z1), position, temperature)
        terms = {"clean": loss.mean()}
        for m in batch.mixed:
            z1, zm = self._project_pair(h1, self.backbone(m.image))
            all_m, all_1 = gather(zm), gather(z1)
            loss = nt_xent_on_mixture(zm, z1, all_m, all_1, position, m.partner, m.lam, temperature)
            terms[m.term] = loss.mean()
        return terms

    def _project_pair(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        za, zb = unit(self.head(torch.cat([a, b]))).chunk(2)
        return za, zb


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

    ``(l(a_i, b_i) + l(b_i, a_i)) / 2`` with ``l(u_i, v_i) = -log( e(u_i.v_i) / (sum_j e(u_i.v_j) +
    sum_{j != i} e(u_i.u_j)) )``, ``e(s) = exp(s / T)``. Source: Chen 2020, 2002.05709, eq. 1.
    """
    from_a = _log_softmax(a, all_a, all_b, position, temperature)
    from_b = _log_softmax(b, all_b, all_a, position, temperature)
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
    """Return NT-Xent between mixtures ``m`` and clean rows ``k``, with soft targets.

    ``lam_i (l(m_i, k_i) + l(k_i, m_i)) / 2 + (1 - lam_i) (l(m_i, k_j) + l(k_j, m_i)) / 2`` with
    ``j = partner_i``. Its sum is that of ``lam M(k, m) + (1 - lam) M(k, reversed m)``, on one set
    of logits. Source: Shen 2022, 2003.05438.
    """
    i = torch.arange(len(m), device=m.device)
    from_m = _log_softmax(m, all_m, all_k, position, temperature)
    from_k = _log_softmax(k, all_k, all_m, position, temperature)
    own = from_m[i, position] + from_k[i, position]
    partners = from_m[i, position[partner]] + from_k[partner, position]
    return -(lam * own + (1 - lam) * partners) / 2


def _log_softmax(
    anchor: Tensor, same: Tensor, other: Tensor, position: Tensor, temperature: float
) -> Tensor:
    """Return the log-softmax of local anchors over (other | same), without themselves, (n, 2m)."""
    to_other = anchor @ other.T / temperature
    to_same = anchor @ same.T / temperature
    to_same = to_same.scatter(1, position[:, None], -torch.inf)
    return torch.cat([to_other, to_same], 1).log_softmax(1)
