"""Barlow Twins. Zbontar 2021, 2103.03230."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.distributed import gather, own_rows
from models.losses.common import full_precision
from models.methods.base import Method, Setup
from models.modules import heads
from models.modules.backbone import num_features
from models.optim import LrScale, is_norm_or_bias
from models.settings.barlow import BarlowConfig
from pipelines.batch import Batch


class Barlow(Method):
    """``L = sum_i (1 - C_ii)^2 + w sum_{i != j} C_ij^2``, C the views' cross-correlation.

    C is taken over all ranks' rows. A mixture m of x0 adds ``lam L(z(m), z(x1)) + (1 - lam)
    L(z(m)[partner], z(x1))``; m is encoded once. L is not a mean over rows, so the whole batch has
    one lam, and ``--mix-draw group`` is refused. A mixture of x0 with rows of x1 adds Mixed Barlow
    Twins' ``regularizer`` instead. Bandara 2023, 2312.02151.
    """

    def __init__(self, backbone: nn.Module, config: BarlowConfig, setup: Setup) -> None:
        sizes = (num_features(backbone), config.hidden, config.hidden, config.dim)
        super().__init__(backbone, heads.mlp(*sizes, norm=True, last_affine=False))
        self.config = config

    def lr_scale(self, name: str, parameter: nn.Parameter) -> LrScale:
        """Return the smaller share of biases and batch norm, or else the run's rate."""
        return LrScale(share=self.config.bias_lr if is_norm_or_bias(name, parameter) else 1.0)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the clean term and, with a mixture, the mixed one."""
        weight = self.config.off_diagonal
        z0, z1 = (standardize(gather(self._embed(x))) for x in batch.views)
        terms = {"clean": cross_correlation(z0, z1, weight)}
        for m in batch.mixed:
            if m.partner_view is not None and self.config.mix_weight == 0:
                continue  # plain Barlow Twins, running statistics included
            z = standardize(gather(self._embed(m.image)))
            partner = gather(own_rows(len(m.lam), z.device)[m.partner])
            if m.partner_view is not None:
                term = regularizer(z, z0, z1, partner, m.lam[0])
                terms[m.term] = self.config.mix_weight * weight * term
                continue
            own = cross_correlation(z, z1, weight)
            other = cross_correlation(z[partner], z1, weight)
            lam = m.lam[0].to(own.dtype)
            terms[m.term] = lam * own + (1 - lam) * other
        return terms

    def _embed(self, images: Tensor) -> Tensor:
        h = self.backbone(images)
        z: Tensor = self.head(h)
        self.record_embeddings(h, z)
        return z


@full_precision
def standardize(z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Return rows with mean 0 and variance 1 in each dimension; epsilon is batch norm's, 1e-5."""
    var, mean = torch.var_mean(z, 0, correction=0)
    return (z - mean) * (var + 1e-5).rsqrt()


@full_precision
def cross_correlation(
    a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], off_diagonal: float
) -> Float[Tensor, ""]:
    """Return ``sum_i (1 - C_ii)^2 + off_diagonal sum_{i != j} C_ij^2``, C = ``a^T b / n``.

    ``a`` and ``b`` are standardized rows of all ranks. Source: Zbontar 2021, 2103.03230, eq. 1, 2.

    >>> z = standardize(torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]))
    >>> [round(float(cross_correlation(z, view, 0.0051)), 3) for view in (z, -z)]
    [0.0, 8.0]
    """
    correlation = a.T @ b / len(a)
    diagonal = correlation.diagonal()
    others = correlation.square().sum() - diagonal.square().sum()
    return (1 - diagonal).square().sum() + off_diagonal * others


@full_precision
def regularizer(
    z: Float[Tensor, "n d"],
    z0: Float[Tensor, "n d"],
    z1: Float[Tensor, "n d"],
    partner: Int[Tensor, " n"],
    lam: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Return how far mixtures are from the blends of their images, as both views see them.

    ``|e^T z0 / n|^2 + |e^T z1 / n|^2``, Frobenius norms, with ``e = z - lam z0 - (1 - lam)
    z1[partner]``; all have gradients. ``z`` are the standardized rows of the mixtures of all
    ranks. Source: Bandara 2023, 2312.02151, in the form of the released README.
    """
    error = z - lam * z0 - (1 - lam) * z1[partner]
    seen = [error.T @ view / len(z) for view in (z0, z1)]
    return torch.stack([matrix.square().sum() for matrix in seen]).sum()
