"""SimSiam. Chen 2021, 2011.10566."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from models.losses.common import full_precision, on_mixture
from models.methods.base import Method, Setup
from models.modules import heads
from models.modules.backbone import num_features
from models.optim import LrScale
from models.settings.simsiam import SimsiamConfig
from pipelines.batch import Batch


class Simsiam(Method):
    """``L = M(x0, x1)`` with ``M(a, b) = D(p(a), sg z(b)) / 2 + D(p(b), sg z(a)) / 2``, D = -cos.

    sg stops the gradient. A mixture m of x0 adds ``lam M(x1, m) + (1 - lam) M(x1, reversed m)``. It
    predicts x1 and is predicted from x1; one encoding serves both. With ``mix_terms`` replace that
    term stands alone, and x0 is not encoded.
    """

    def __init__(self, backbone: nn.Module, config: SimsiamConfig, setup: Setup) -> None:
        sizes = (num_features(backbone), *[config.dim] * config.layers)
        head = heads.mlp(*sizes, norm=True, last_norm=True, last_affine=False)
        super().__init__(backbone, head)
        self.config, self.replaces = config, setup.mix_terms == "replace"
        self.predictor = heads.predictor(config.dim, config.hidden)

    def lr_scale(self, name: str, parameter: nn.Parameter) -> LrScale:
        """Return the run's rate; that of the predictor stays constant."""
        follows = not (self.config.constant_predictor_lr and name.startswith("predictor."))
        return LrScale(scheduled=follows)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the clean term and, with a mixture, the mixed one."""
        alone = self.replaces and bool(batch.mixed)
        *first, (z1, p1) = (self._embed(x) for x in (batch.views[1:] if alone else batch.views))
        terms = {}
        for z0, p0 in first:
            halves = negative_cosine(p0, z1.detach()) + negative_cosine(p1, z0.detach())
            terms["clean"] = halves.mean() / 2
        for m in batch.mixed:
            z, p = self._embed(m.image)
            halves = on_mixture(negative_cosine, p, z1.detach(), m)
            # the cosine is symmetric: now x1 predicts the mixture
            halves = halves + on_mixture(negative_cosine, z.detach(), p1, m)
            terms[m.term] = halves.mean() / 2
        return terms

    def _embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        h = self.backbone(images)
        z = self.head(h)
        self.record_embeddings(h, z)
        return z, self.predictor(z)


@full_precision
def negative_cosine(p: Float[Tensor, "n d"], z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Return ``-cos(p, z)``, from -1 (aligned) to 1. Source: Chen 2021, 2011.10566, eq. 1."""
    return -(F.normalize(p, dim=1) * F.normalize(z, dim=1)).sum(1)
