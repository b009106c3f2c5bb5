"""SimCLR. Chen 2020, 2002.05709."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.distributed import gather, own_rows
from models.losses.common import unit
from models.losses.contrastive import nt_xent, nt_xent_on_mixture
from models.methods.base import Method, Setup
from models.modules import heads
from models.modules.backbone import num_features
from models.settings import Defaults, SimclrConfig
from pipelines.batch import Batch


class Simclr(Method):
    """``L = M(x0, x1)``, M being NT-Xent over all ranks' rows of both views.

    A mixture m of x0 adds ``lam M(x1, m) + (1 - lam) M(x1, reversed m)`` as one cross-entropy with
    soft targets (Shen 2022, 2003.05438). x0, x1 and m are encoded once; the head sees the pairs.
    """

    batch_coupling = "NT-Xent's negatives are those of a micro-batch"
    defaults = Defaults(
        optimizer="lars",
        lr_per_256=0.3,
        weight_decay=1e-6,
        views="simclr",
        bn="sync",
        decay_norm_and_bias=False,
        warmup_epochs=10,
        zero_init_last=True,
    )

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
            terms[f"mixed_{m.view}"] = loss.mean()
        return terms

    def _project_pair(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        za, zb = unit(self.head(torch.cat([a, b]))).chunk(2)
        return za, zb
