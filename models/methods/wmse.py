"""W-MSE with two or more views. Ermolov 2021, 2007.06346."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn

from models.distributed import gather, own_rows
from models.losses.common import cosine_gap, on_mixture
from models.methods.base import Method, Setup
from models.modules import heads
from models.modules.backbone import num_features
from models.modules.whitening import whiten_in, with_partners
from models.settings.wmse import WmseConfig
from pipelines.batch import Batch, Mixed, to_device

SUB_BATCH_STREAM = 1 << 21
"""Random stream of the permutations, keyed by (seed, step)."""


class Wmse(Method):
    """``L = M(x0, x1, ...)``, M the mean of ``2 - 2 cos(w_a, w_b)`` over the pairs of views.

    ``w`` are the whitened projections. Each view is whitened separately, in random sub-batches of
    the whole batch that are the same for all views. A mixture m of x0 adds ``lam M(m, x1, ...) +
    (1 - lam) M(reversed m, x1, ...)`` (Shen 2022, 2003.05438). Partners share a sub-batch, so m is
    encoded and whitened once. The head is applied to all views of an M together.
    """

    def __init__(self, backbone: nn.Module, config: WmseConfig, setup: Setup) -> None:
        width = num_features(backbone)
        super().__init__(backbone, heads.projector(width, config.hidden, config.dim, norm=True))
        self.config = config

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the clean term and, with a mixture, the mixed one."""
        h = [self.backbone(view) for view in batch.views]
        orders = self._orders(batch)
        terms = {"clean": self._agreement(h, orders, None)}
        for m in batch.mixed:
            rows = [*h[: m.view], self.backbone(m.image), *h[m.view + 1 :]]
            terms[m.term] = self._agreement(rows, orders, m)
        return terms

    def _agreement(self, h: Sequence[Tensor], orders: list[Tensor], mixed: Mixed | None) -> Tensor:
        """Return M of the views' features; those of view ``mixed.view`` come from the mixture."""
        z = self.head(torch.cat(list(h))).chunk(len(h))
        self.record_embeddings(h[0], z[0])
        all_z, own = [gather(rows) for rows in z], own_rows(len(z[0]), z[0].device)
        gaps = []
        for order in orders:
            w = [whiten_in(rows, order, self.config.sub_batch)[own] for rows in all_z]
            for a, b in combinations(range(len(w)), 2):
                if mixed is None or mixed.view not in (a, b):
                    gaps.append(cosine_gap(w[a], w[b]))
                else:
                    clean = a + b - mixed.view
                    gaps.append(on_mixture(cosine_gap, w[mixed.view], w[clean], mixed))
        return torch.stack(gaps).mean()

    def _orders(self, batch: Batch) -> list[Tensor]:
        """Return an order of all ranks' rows, to be cut into sub-batches, per permutation."""
        n, device = len(batch.index), batch.index.device
        own = own_rows(n, device)
        partner = gather(batch.mixed[0].partner + own[0] if batch.mixed else own)
        rng = np.random.default_rng([batch.seed, batch.step, SUB_BATCH_STREAM])
        draws = [rng.permutation(len(partner)) for _ in range(self.config.permutations)]
        places = [to_device(torch.from_numpy(place), device) for place in draws]
        return [with_partners(place, partner) for place in places]
