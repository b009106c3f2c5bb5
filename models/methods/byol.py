"""BYOL. Grill 2020, 2006.07733."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.losses.clim import ClimLoss, anchors_and_neighbors
from models.losses.common import cosine_gap, on_mixture
from models.methods.base import Method, Setup
from models.modules import heads
from models.modules.backbone import num_features
from models.modules.ema import cosine_momentum, ema_update, momentum_copy
from models.settings.byol import ByolConfig
from pipelines.batch import Batch


class Byol(Method):
    """``L = M(x0, x1)`` with ``M(a, b) = d(p(a), t(b)) + d(p(b), t(a))``, d = 2 - 2 cos.

    A mixture m of x0 adds ``lam M(x1, m) + (1 - lam) M(x1, reversed m)``, so it passes through both
    branches (Shen 2022, 2003.05438, the pseudo-code). ``mix_online`` is our variant: ``2 [lam
    d(p(m), t(x1)) + (1 - lam) d(p(m), t(x1)[partner])]``. With ``mix_terms`` replace it stands
    alone and once, without the factor: i-Mix (Lee 2021, 2010.08887).
    """

    def __init__(self, backbone: nn.Module, config: ByolConfig, setup: Setup) -> None:
        width = num_features(backbone)
        sizes = (width, config.hidden, config.dim)
        super().__init__(backbone, heads.projector(*sizes, norm=True, last_bias=config.last_bias))
        self.config, self.clim = config, setup.clim
        self.replaces = setup.mix_terms == "replace"
        self.predictor = heads.predictor(config.dim, config.hidden, last_bias=config.last_bias)
        self.target = momentum_copy(self.online)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the clean term and, with a mixture, the mixed one."""
        if self.clim:
            return self._clim_terms(batch, self.clim)
        if self.replaces and batch.mixed:
            return self._mixed_terms(batch)
        x0, x1 = batch.views
        p0, p1 = self._predict(x0), self._predict(x1)
        t0, t1 = (self._target(x) for x in batch.targets)
        terms = {"clean": (cosine_gap(p0, t1) + cosine_gap(p1, t0)).mean()}
        for m in batch.mixed:
            loss = on_mixture(cosine_gap, self._predict(m.image), t1, m)
            if self.config.mix_online:
                loss = 2 * loss
            else:  # the gap is symmetric: now the mixture is the target, and x1 the prediction
                loss = loss + on_mixture(cosine_gap, self._target(m.image), p1, m)
            terms[m.term] = loss.mean()
        return terms

    def _mixed_terms(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mixed term alone: the mixture predicts the target's projection of x1."""
        t1 = self._target(batch.views[1])
        return {
            m.term: on_mixture(cosine_gap, self._predict(m.image), t1, m).mean()
            for m in batch.mixed
        }

    def _clim_terms(self, batch: Batch, clim: ClimLoss) -> dict[str, Tensor]:
        """Return CLIM's terms: the mixture is on the online branch; neighbors are targets only."""
        (x0, _), (x1, _) = (anchors_and_neighbors(view) for view in batch.views)
        (m,) = batch.mixed
        targets, clean = self._target(batch.views[1]), None
        if clim.mode == "add":
            p0, p1 = self._predict(x0), self._predict(x1)
            clean = (cosine_gap(p0, targets[: len(x1)]) + cosine_gap(p1, self._target(x0))).mean()
        mixed = 2 * on_mixture(cosine_gap, self._predict(m.image), targets, m).mean()
        return clim.combine(clean, mixed)

    def after_step(self, progress: float) -> None:
        """Update the target network."""
        ema_update(self.target, self.online, cosine_momentum(self.config.momentum, progress))

    def _predict(self, images: Tensor) -> Tensor:
        h = self.backbone(images)
        z = self.head(h)
        self.record_embeddings(h, z)
        p: Tensor = self.predictor(z)
        return p

    @torch.no_grad()
    def _target(self, images: Tensor) -> Tensor:
        t: Tensor = self.target(images)
        return t
