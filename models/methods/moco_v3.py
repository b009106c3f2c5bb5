"""MoCo v3. Chen 2021, 2104.02057."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.distributed import gather
from models.losses.among_mixtures import mean_keys, overlap
from models.losses.common import full_precision, on_mixture, unit
from models.losses.contrastive import log_negatives
from models.methods.base import Method, Setup
from models.modules import heads
from models.modules.backbone import num_features
from models.modules.ema import cosine_momentum, ema_update, momentum_copy
from models.multi_resolution import join_sides, split_sides
from models.settings.moco_v3 import MocoV3Config
from pipelines.batch import Batch, Mixed


class MocoV3(Method):
    """``L = ctr(q(x0), k(x1)) + ctr(q(x1), k(x0))``; all ranks' keys of a view are candidates.

    A mixture m of x0 is contrasted with both views' keys: ``lam [ctr(q(m), k(x1)) + ctr(q(m),
    k(x0))] + (1 - lam) [the same with the partners' keys]``. This is Un-Mix's symmetric MoCo (Shen
    2022, 2003.05438) with the loss of this paper. SDMP and PatchMix have a loss of their own
    (``models.losses.among_mixtures``), in which mixtures are keys too.
    """

    def __init__(self, backbone: nn.Module, config: MocoV3Config, setup: Setup) -> None:
        config = config.suited("")
        layers, temperature, momentum = config.layers, config.temperature, config.momentum
        assert layers is not None and temperature is not None and momentum is not None
        hidden = (config.hidden,) * (layers - 1)
        sizes = (num_features(backbone), *hidden, config.dim)
        head = heads.mlp(*sizes, norm=True, last_norm=True, last_affine=False)
        super().__init__(backbone, head)
        self.config, self.sizes = config, setup.sizes
        self.temperature, self.momentum = temperature, momentum
        last_bias, last_norm = config.last_bias, bool(config.predictor_norm)
        self.predictor = heads.predictor(
            config.dim, config.hidden, last_bias=last_bias, last_norm=last_norm
        )
        self.key_encoder = momentum_copy(self.online)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the clean term and, with a mixture, the mixed one."""
        if any(m.key for m in batch.mixed):
            return self._among_mixtures(batch)
        keys = [self._keys(x) for x in reversed(batch.targets[:2])]  # positives of q0, then of q1
        all_keys = [gather(k) for k in keys]
        terms = [self._terms(keys, all_keys, *side) for side in split_sides(batch, self.sizes)]
        return join_sides(terms, self.sizes)

    def _terms(
        self, keys: list[Tensor], all_keys: list[Tensor], views: list[Tensor], mixed: list[Mixed]
    ) -> dict[str, Tensor]:
        """Return the terms of the queries of one side; query view i meets ``keys[i]``."""
        queries = [self._query(x) for x in views]
        halves = [
            self._contrast(q, all_k)(q, k)
            for q, k, all_k in zip(queries, keys, all_keys, strict=True)
        ]
        terms = {"clean": torch.stack(halves).sum(0).mean()}
        for m in mixed:
            q = self._query(m.image)
            halves = [
                on_mixture(self._contrast(q, all_k), q, k, m)
                for k, all_k in zip(keys, all_keys, strict=True)
            ]
            terms[m.term] = torch.stack(halves).sum(0).mean()
        return terms

    def _among_mixtures(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of SDMP or PatchMix; each view is encoded once, as query or as key."""
        (query,) = (m for m in batch.mixed if not m.key)
        (key,) = (m for m in batch.mixed if m.key)
        q, qm = self._query(batch.views[key.view]), self._query(query.image)
        k, other, km = map(
            self._keys, (batch.targets[key.view], batch.targets[query.view], key.image)
        )
        clean, source, among = (
            self._contrast(each, gather(keys)) for each, keys in ((q, other), (qm, k), (qm, km))
        )
        to_mixtures = among(qm, mean_keys(overlap(query, key), km))
        # PatchMix's release has cross-entropies, without MoCo v3's factor of 2 T.
        scale = 1.0 if query.name == "sdmp" else 1 / (2 * self.temperature)
        return {
            "clean": scale * clean(q, other).mean(),
            f"mixed{query.suffix}": scale / 2 * on_mixture(source, qm, k, query).mean(),
            f"mixed{query.suffix}_to_mixed": scale / 2 * to_mixtures.mean(),
        }

    def after_step(self, progress: float) -> None:
        """Update the key encoder."""
        ema_update(self.key_encoder, self.online, cosine_momentum(self.momentum, progress))

    def _query(self, images: Tensor) -> Tensor:
        h = self.backbone(images)
        z = self.head(h)
        self.record_embeddings(h, z)
        return unit(self.predictor(z))

    @torch.no_grad()
    def _keys(self, images: Tensor) -> Tensor:
        return unit(self.key_encoder(images))

    def _contrast(self, q: Tensor, all_k: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Return ``contrast`` of these queries among ``all_k``: ``(q, k) -> (n,)``."""
        candidates = log_negatives(q, all_k, self.temperature)
        return partial(contrast, candidates=candidates, temperature=self.temperature)


@full_precision
def contrast(
    q: Float[Tensor, "n d"],
    k: Float[Tensor, "n d"],
    candidates: Float[Tensor, " n"],
    temperature: float,
) -> Float[Tensor, " n"]:
    """Return ``ctr = -2 T log( e^(q.k/T) / sum_j e^(q.k_j/T) )`` for unit rows, j over all keys.

    ``candidates`` is ``log_negatives(q, all keys, T)``. It includes the positive, so it is the same
    for every choice of the positive. Source: Chen 2021, 2104.02057, eq. 1 and algorithm 1.
    """
    return 2 * (temperature * candidates - (q * k).sum(1))
