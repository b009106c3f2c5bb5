"""MoCo v1 and v2, one-way and symmetric. He 2020, 1911.05722; Chen 2020, 2003.04297."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from models.distributed import gather
from models.losses.clim import anchors_and_neighbors
from models.losses.common import on_mixture, unit
from models.losses.contrastive import info_nce_against, softmax_among
from models.methods.base import Method, Setup
from models.modules import heads
from models.modules.backbone import num_features
from models.modules.batchnorm import replay_running_stats
from models.modules.ema import ema_update, momentum_copy
from models.modules.queue import Queue
from models.modules.shuffle_bn import StepKeys
from models.multi_resolution import join_sides, split_sides
from models.settings.moco import MocoConfig
from pipelines.batch import Batch, Mixed


def released_order(mixtures: int) -> tuple[int, ...]:
    """Return the queries in the order of Un-Mix's symmetric code, which encodes mixtures twice.

    >>> released_order(1)  # x0, m, x1, m
    (0, 2, 1, 2)
    """
    again = range(2, 2 + mixtures)
    return (0, *again, 1, *again)


def head_of(width: int, config: MocoConfig) -> nn.Sequential:
    """Return the projector: one layer, two, or Wang 2022's three (2204.00613, released code)."""
    if not config.mlp:
        return heads.mlp(width, config.dim, norm=False)
    rest = heads.mlp(width, width, config.dim, norm=False)
    if config.layers == 2:
        return rest
    return nn.Sequential(*heads.mlp(width, width, norm=False, last_norm=True), heads.RELU(), *rest)


class Moco(Method):
    """Queries are contrasted with the other view's keys, among a queue of earlier keys.

    One-way: ``CE(q(x0), k(x1))``, with a mixture m of x0 also ``lam CE(q(m), k(x1)) + (1 - lam)
    CE(q(m), k(x1)[partner])``. Symmetric adds the same with x0 and x1 exchanged, where the mixture
    is still that of x0 and meets the keys of x0 (Shen 2022, 2003.05438, the released CIFAR code);
    with ``mix_each`` it is one of x1. That code encodes the mixture once for each half; here it is
    encoded once, with the same weight in the running statistics of the queries' batch norm.

    With ``batch_keys`` the softmax is over all keys of the step's batch and the queue. With
    ``mix_terms`` replace, the mixed term stands alone and clean views are no queries: i-Mix (Lee
    2021, 2010.08887).
    """

    def __init__(self, backbone: nn.Module, config: MocoConfig, setup: Setup) -> None:
        super().__init__(backbone, head_of(num_features(backbone), config))
        self.config, self.clim, self.sizes = config, setup.clim, setup.sizes
        self.batch_size, self.replaces = setup.batch_size, setup.mix_terms == "replace"
        self.keys_per_step = config.keys_per_step(setup.batch_size)
        self.key_encoder = momentum_copy(self.online)
        self.keys = StepKeys(shuffle=setup.bn == "group")
        generator = torch.Generator().manual_seed(setup.seed)
        self.queue = Queue(unit(torch.randn(config.queue, config.dim, generator=generator)))

    def mixed_views(self, num_views: int) -> tuple[int, ...]:
        """Return the views that are mixed."""
        return (0, 1) if self.config.mix_each else (0,)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the clean term and, with a mixture, the mixed one."""
        keys = self.keys.encode(self.key_encoder, self._key_views(batch), batch)
        queue = self.queue.rows
        among = [torch.cat([gather(k), queue]) if self.config.batch_keys else queue for k in keys]
        terms = [self._terms(keys, among, *side) for side in split_sides(batch, self.sizes)]
        # Clean keys (of x0, then of x1) enter the queue after the step: all terms see it unchanged.
        for i, k in enumerate(keys[:1] if self.clim else keys[::-1]):
            self.queue.stage(batch.step, k, batch.position + i * self.batch_size)
        return join_sides(terms, self.sizes)

    def _terms(
        self, keys: list[Tensor], among: list[Tensor], views: list[Tensor], mixtures: list[Mixed]
    ) -> dict[str, Tensor]:
        """Return the terms of one side's queries; query view i meets ``keys[i]``, ``among[i]``."""
        if self.clim:
            (view,), (mixed,), all_keys = views, mixtures, torch.cat(keys)
            temperature = self.config.temperature
            return self.clim.terms(self._query, view, mixed, all_keys, among[0], temperature)
        alone = self.replaces and bool(mixtures)
        replay = bool(mixtures) and self.config.symmetric and not (self.config.mix_each or alone)

        def query(number: int, images: Tensor) -> Tensor:
            if not replay:
                return self._query(images)
            with replay_running_stats(self.online, released_order(len(mixtures)), number):
                return self._query(images)

        terms = {}
        if not alone:
            queries = [query(number, images) for number, images in enumerate(views)]
            clean = [
                loss(q, k).mean()
                for q, k, others in zip(queries, keys, among, strict=True)
                for loss in self._losses(q, [others])
            ]
            terms["clean"] = torch.stack(clean).sum()
        for number, m in enumerate(mixtures, start=len(views)):
            q = query(number, m.image)
            met = slice(m.view, m.view + 1) if self.config.mix_each else slice(None)
            losses = zip(self._losses(q, among[met]), keys[met], strict=True)
            mixed_terms = [on_mixture(loss, q, k, m).mean() for loss, k in losses]
            terms[m.term] = torch.stack(mixed_terms).sum()
        return terms

    def _losses(
        self, q: Tensor, among: Sequence[Tensor]
    ) -> list[Callable[[Tensor, Tensor], Tensor]]:
        """Return the loss of queries among each of the candidates; the queue's are all alike."""
        temperature = self.config.temperature
        if self.config.batch_keys:
            return [softmax_among(q, candidates, temperature) for candidates in among]
        return [info_nce_against(q, among[0], temperature)] * len(among)

    def before_accumulation(self, batch: Batch, count: int) -> None:
        """Encode the keys of the whole step if their batch-norm groups are shuffled."""
        self.keys.encode_ahead(self.key_encoder, self._key_views(batch), batch, count)

    def after_step(self, progress: float) -> None:
        """Update the key encoder and enqueue the keys."""
        ema_update(self.key_encoder, self.online, self.config.momentum)
        self.queue.commit(self.keys_per_step)
        self.keys.clear()

    def _query(self, images: Tensor) -> Tensor:
        h = self.backbone(images)
        z = unit(self.head(h))
        self.record_embeddings(h, z)
        return z

    def _key_views(self, batch: Batch) -> list[Tensor]:
        """Return the images of the keys: x1, then x0 if symmetric; CLIM: x1's two halves."""
        if self.clim:  # encoded apart: anchors and neighbors share no batch statistics
            return list(anchors_and_neighbors(batch.views[1]))
        return [batch.targets[1], batch.targets[0]][: 1 + self.config.symmetric]
