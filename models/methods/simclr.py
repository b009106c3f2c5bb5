"""SimCLR. Chen 2020, 2002.05709."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.distributed import gather, own_rows
from models.losses.common import full_precision, on_mixture, unit
from models.losses.contrastive import softmax_among
from models.methods.base import Method, Setup
from models.modules import heads
from models.modules.backbone import num_features
from models.settings.simclr import SimclrConfig
from pipelines.batch import Batch, Mixed


class Simclr(Method):
    """``L = M(x0, x1)``, M being NT-Xent over all ranks' rows of both views.

    A mixture m of x0 adds ``lam M(x1, m) + (1 - lam) M(x1, reversed m)`` as one cross-entropy with
    soft targets (Shen 2022, 2003.05438). x0, x1 and m are encoded once; the head is applied to both
    sides of a pair together.

    ``n_pair`` is i-Mix's loss (Lee 2021, 2010.08887): x0 or m against the rows of x1 alone, in one
    direction. With ``mix_terms`` replace the mixed term stands alone, and x0 is not encoded.
    """

    def __init__(self, backbone: nn.Module, config: SimclrConfig, setup: Setup) -> None:
        width = num_features(backbone)
        sizes = (width, config.hidden or width, config.dim)
        norm, bias = config.head_bn, config.last_bias
        super().__init__(backbone, heads.mlp(*sizes, norm=norm, last_norm=norm, last_bias=bias))
        self.config, self.replaces = config, setup.mix_terms == "replace"

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the clean term and, with a mixture, the mixed one."""
        alone = self.replaces and bool(batch.mixed)
        h = [self.backbone(view) for view in (batch.views[1:] if alone else batch.views)]
        terms = {}
        if not alone:
            z0, z1 = self._project_pair(h[0], h[1])
            self.record_embeddings(h[0], z0)
            terms["clean"] = self._clean(z0, z1).mean()
        for m in batch.mixed:
            hm = self.backbone(m.image)
            z1, zm = self._project_pair(h[-1], hm)
            self.record_embeddings(hm, zm)
            terms[m.term] = self._mixed(zm, z1, m).mean()
        return terms

    def _clean(self, z0: Tensor, z1: Tensor) -> Tensor:
        """Return the loss of each of this rank's pairs, (n,)."""
        all_1, temperature = gather(z1), self.config.temperature
        if self.config.n_pair:
            return softmax_among(z0, all_1, temperature)(z0, z1)
        position = own_rows(len(z0), z0.device)
        return nt_xent(z0, z1, gather(z0), all_1, position, temperature)

    def _mixed(self, zm: Tensor, z1: Tensor, m: Mixed) -> Tensor:
        """Return the loss of each of this rank's mixtures, (n,)."""
        temperature = self.config.temperature
        if self.config.n_pair:
            return on_mixture(softmax_among(zm, gather(z1), temperature), zm, z1, m)
        all_m, all_1 = gather(zm), gather(z1)
        position = own_rows(len(zm), zm.device)
        return nt_xent_on_mixture(zm, z1, all_m, all_1, position, m.partner, m.lam, temperature)

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
