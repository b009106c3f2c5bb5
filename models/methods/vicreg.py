"""VICReg. Bardes 2022, 2105.04906."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from models.distributed import gather
from models.losses.common import full_precision, on_mixture
from models.methods.base import Method, Setup
from models.modules import heads
from models.modules.backbone import num_features
from models.settings.vicreg import VicregConfig
from pipelines.batch import Batch


class Vicreg(Method):
    """``L(a, b) = 25 mse(a, b) + s(a) + s(b)``, ``s(z) = 25 v(z) / 2 + c(z)`` over all ranks' rows.

    A mixture m of x0 adds ``lam L(z(m), z(x1)) + (1 - lam) L(z(m)[partner], z(x1))``. s does not
    depend on the order of the rows, so only the distance is weighted, row by row. The mean of both
    views' v is that of the released code; eq. 6 of the paper has their sum. With ``mix_terms``
    replace the mixed term stands alone, and x0 is not encoded.
    """

    def __init__(self, backbone: nn.Module, config: VicregConfig, setup: Setup) -> None:
        sizes = (num_features(backbone), config.hidden, config.hidden, config.dim)
        super().__init__(backbone, heads.mlp(*sizes, norm=True, last_affine=False))
        self.config, self.replaces = config, setup.mix_terms == "replace"

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the clean term and, with a mixture, the mixed one."""
        weight = self.config.invariance
        alone = self.replaces and bool(batch.mixed)
        *first, (z1, s1) = (self._embed(x) for x in (batch.views[1:] if alone else batch.views))
        terms = {}
        for z0, s0 in first:
            terms["clean"] = weight * squared_distance(z0, z1).mean() + s0 + s1
        for m in batch.mixed:
            z, s = self._embed(m.image)
            distance = on_mixture(squared_distance, z, z1, m).mean()
            terms[m.term] = weight * distance + s + s1
        return terms

    def _embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the projection and its regularization s, taken over all ranks' rows."""
        h = self.backbone(images)
        z = self.head(h)
        self.record_embeddings(h, z)
        rows = gather(z)
        weighted = self.config.variance / 2 * variance(rows)
        return z, weighted + self.config.covariance * covariance(rows)


@full_precision
def squared_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Return ``mean_d (a - b)^2``. Source: Bardes 2022, 2105.04906, eq. 5, as a mean over d."""
    return (a - b).square().mean(1)


@full_precision
def variance(z: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Return ``mean_d max(0, 1 - sqrt(var_d + 1e-4))``. Source: Bardes 2022, eq. 1 and 2."""
    return F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()


@full_precision
def covariance(z: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Return ``sum_{i != j} Cov_ij^2 / d``, Cov divided by n - 1. Source: Bardes 2022, eq. 3, 4."""
    z = z - z.mean(0)
    cov = z.T @ z / (len(z) - 1)
    return (cov.square().sum() - cov.diagonal().square().sum()) / z.shape[1]
