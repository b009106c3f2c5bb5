"""MoCo v3. Chen 2021, 2104.02057."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.distributed import gather
from models.losses.common import full_precision, on_mixture, unit
from models.losses.contrastive import log_negatives
from models.methods.base import Method, Setup
from models.modules import heads
from models.modules.backbone import num_features
from models.modules.ema import cosine_momentum, ema_update, momentum_copy
from models.settings import Defaults, MocoV3Config
from pipelines.batch import Batch, Mixed


class MocoV3(Method):
    """``L = ctr(q(x0), k(x1)) + ctr(q(x1), k(x0))``; all ranks' keys of a view are candidates.

    A mixture m of x0 meets both views' keys, in row form: ``lam [ctr(q(m), k(x1)) + ctr(q(m),
    k(x0))] + (1 - lam) [the same with the partners' keys]``. That is Un-Mix's symmetric MoCo (Shen
    2022, 2003.05438) with this paper's contrast; mixtures are no keys.
    """

    batch_coupling = "the keys that a query meets are those of a micro-batch"
    defaults = Defaults(
        optimizer="lars",
        lr_per_256=0.3,
        weight_decay=1.5e-6,
        views="moco-v3",
        bn="sync",
        decay_norm_and_bias=False,
        warmup_epochs=10,
        zero_init_last=True,
    )

    def __init__(self, backbone: nn.Module, config: MocoV3Config, setup: Setup) -> None:
        sizes = (num_features(backbone), config.hidden, config.dim)
        head = heads.mlp(*sizes, norm=True, last_norm=True, last_affine=False)
        super().__init__(backbone, head)
        self.config, self.sizes = config, setup.sizes
        self.predictor = heads.predictor(config.dim, config.hidden, last_bias=config.last_bias)
        self.key_encoder = momentum_copy(nn.Sequential(self.backbone, self.head))

    @classmethod
    def queries(cls, config: MocoV3Config) -> tuple[int, ...]:
        """Return the views that are queries."""
        return (0, 1)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the clean term and, with a mixture, the mixed one."""
        keys = [self._keys(x) for x in reversed(batch.views[:2])]  # those that q0 meets, then q1
        everyone = [gather(k) for k in keys]
        terms = [self._against(keys, everyone, *side) for side in self.sizes.split(batch)]
        return self.sizes.join(terms)

    def _against(
        self, keys: list[Tensor], everyone: list[Tensor], views: list[Tensor], mixed: list[Mixed]
    ) -> dict[str, Tensor]:
        """The terms of query views of one side, and of mixtures of them."""
        q0, q1 = (self._query(x) for x in views)
        halves = [
            self._contrast(q, all_k)(q, k)
            for q, k, all_k in zip((q0, q1), keys, everyone, strict=True)
        ]
        terms = {"clean": torch.stack(halves).sum(0).mean()}
        for m in mixed:
            q = self._query(m.image)
            halves = [
                on_mixture(self._contrast(q, all_k), q, k, m)
                for k, all_k in zip(keys, everyone, strict=True)
            ]
            terms[f"mixed_{m.view}"] = torch.stack(halves).sum(0).mean()
        return terms

    def after_step(self, progress: float) -> None:
        """Let the key encoder follow."""
        online = nn.Sequential(self.backbone, self.head)
        ema_update(self.key_encoder, online, cosine_momentum(self.config.momentum, progress))

    def _query(self, images: Tensor) -> Tensor:
        h = self.backbone(images)
        z = self.head(h)
        self.record_embeddings(h, z)
        return unit(self.predictor(z))

    @torch.no_grad()
    def _keys(self, images: Tensor) -> Tensor:
        return unit(self.key_encoder(images))

    def _contrast(self, q: Tensor, all_k: Tensor) -> partial[Tensor]:
        """``contrast`` of these queries among ``all_k``, for any choice of their own keys."""
        temperature = self.config.temperature
        candidates = log_negatives(q, all_k, temperature)
        return partial(contrast, candidates=candidates, temperature=temperature)


@full_precision
def contrast(
    q: Float[Tensor, "n d"],
    k: Float[Tensor, "n d"],
    candidates: Float[Tensor, " n"],
    temperature: float,
) -> Float[Tensor, " n"]:
    """Return ``ctr = -2 T log( e^(q.k/T) / sum_j e^(q.k_j/T) )`` for unit rows, j over all keys.

    ``candidates`` is ``log_negatives(q, all keys, T)``: the denominator, the row's own key
    included, is the same whichever key is the positive. Source: Chen 2021, 2104.02057, eq. 1 and
    algorithm 1.
    """
    return 2 * (temperature * candidates - (q * k).sum(1))
