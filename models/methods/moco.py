"""MoCo v1 and v2, one-way and symmetric. He 2020, 1911.05722; Chen 2020, 2003.04297."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from models.losses.clim import ClimLoss
from models.losses.common import on_mixture, unit
from models.losses.contrastive import info_nce, log_negatives
from models.methods.base import Method, Setup
from models.modules import heads
from models.modules.backbone import num_features
from models.modules.batchnorm import tracking
from models.modules.ema import ema_update, momentum_copy
from models.modules.queue import Queue
from models.modules.shuffle_bn import ShuffledKeys
from models.settings import Defaults, MocoConfig
from pipelines.batch import Batch, Mixed

RELEASED = (0, 2, 1, 2)
"""Un-Mix's symmetric code: x0, m, x1, m, where 2 is the mixture, is the order of its queries."""


class Moco(Method):
    """Queries meet the keys of the other view among a queue of earlier keys.

    One-way: ``CE(q(x0), k(x1))``, with a mixture m of x0 also ``lam CE(q(m), k(x1)) + (1 - lam)
    CE(q(m), k(x1)[partner])``. Symmetric adds the same with x0 and x1 exchanged, where the mixture
    is still x0's and meets the keys of x0 (Shen 2022, 2003.05438, the released CIFAR code); with
    ``mix_each`` it is one of x1. That code encodes the mixture once for each half; here it is
    encoded once and weighs as much in the running statistics of the queries' batch norm.
    """

    supports_clim = True
    batch_coupling = ""
    defaults = Defaults(
        optimizer="momentum", lr_per_256=0.03, weight_decay=1e-4, views="moco-v2", bn="group"
    )

    def __init__(self, backbone: nn.Module, config: MocoConfig, setup: Setup) -> None:
        width = num_features(backbone)
        sizes = (width, width, config.dim) if config.mlp else (width, config.dim)
        super().__init__(backbone, heads.mlp(*sizes, norm=False))
        if config.mix_each and not config.symmetric:
            raise ValueError("--moco.mix-each needs --moco.symmetric")
        if setup.clim and config.symmetric:
            raise ValueError("--mix clim is one-way: it does not go with --moco.symmetric")
        self.clim, self.sizes = setup.clim, setup.sizes
        self.config = config
        self.shuffled = ShuffledKeys() if setup.bn == "group" else None
        self.batch_size = setup.batch_size
        self.keys_per_step = setup.batch_size * (2 if config.symmetric else 1)
        if self.keys_per_step > config.queue:
            raise ValueError(
                f"--moco.queue {config.queue} cannot take the {self.keys_per_step} keys of a step: "
                "enlarge it or lower --batch-size (--moco.symmetric enqueues both views)"
            )
        self.key_encoder = momentum_copy(nn.Sequential(self.backbone, self.head))
        generator = torch.Generator().manual_seed(setup.seed)
        self.queue = Queue(unit(torch.randn(config.queue, config.dim, generator=generator)))

    @classmethod
    def queries(cls, config: MocoConfig) -> tuple[int, ...]:
        """Return the views that are queries."""
        return (0, 1) if config.symmetric else (0,)

    def mixed_views(self, num_views: int) -> tuple[int, ...]:
        """Return which of the views are to be mixed."""
        return (0, 1) if self.config.mix_each else (0,)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the clean term and, with a mixture, the mixed one."""
        if self.clim:
            return self._with_neighbours(batch, self.clim)
        keys = self._keys(batch)  # those that queries of x0 meet, then those of x1's
        terms = [self._against(keys, *side) for side in self.sizes.split(batch)]
        # Only clean keys enter the queue, those of x0 first; in after_step, so all terms above
        # see the queue as it was.
        for i, k in enumerate(reversed(keys)):
            self.queue.hold(batch.step, k, batch.position + i * self.batch_size)
        return self.sizes.join(terms)

    def _against(
        self, keys: list[Tensor], views: list[Tensor], mixtures: list[Mixed]
    ) -> dict[str, Tensor]:
        """The terms of query views of one side, and of mixtures of them."""
        temperature = self.config.temperature
        twice = bool(mixtures) and self.config.symmetric and not self.config.mix_each
        encoder = nn.Sequential(self.backbone, self.head)

        def query(number: int, images: Tensor) -> Tensor:
            with tracking(encoder, RELEASED, number) if twice else nullcontext():
                return self._query(images)

        queries = [query(number, images) for number, images in enumerate(views)]
        clean = [
            info_nce(q, k, log_negatives(q, self.queue.rows, temperature), temperature).mean()
            for q, k in zip(queries, keys, strict=True)
        ]
        terms = {"clean": torch.stack(clean).sum()}
        for mixed in mixtures:
            q = query(len(views), mixed.image)
            negatives = log_negatives(q, self.queue.rows, temperature)
            pair = partial(info_nce, negatives=negatives, temperature=temperature)
            met = keys[mixed.view : mixed.view + 1] if self.config.mix_each else keys
            halves = [on_mixture(pair, q, k, mixed).mean() for k in met]
            terms[f"mixed_{mixed.view}"] = torch.stack(halves).sum()
        return terms

    def _with_neighbours(self, batch: Batch, clim: ClimLoss) -> dict[str, Tensor]:
        """CLIM's terms. Anchors and neighbours share no batch statistics; anchors are enqueued."""
        num = len(batch.index)
        keys = self._keys(batch)
        self.queue.hold(batch.step, keys[0], batch.position)
        queue, temperature = self.queue.rows, self.config.temperature
        terms = []
        for (view,), (mixed,) in self.sizes.split(batch):
            queries = [self._query(x) for x in clim.clean_queries(view, num)]
            mixture = self._query(mixed.image)
            everyone = torch.cat(keys)
            terms.append(clim.contrast(queries, mixture, everyone, mixed, queue, temperature))
        return self.sizes.join(terms)

    def before_parts(self, batch: Batch, count: int) -> None:
        """Encode the keys of the step, if their groups are shuffled, before any is asked for."""
        if self.shuffled:
            self.shuffled.ahead(self.key_encoder, self._key_views(batch), batch, count)

    def after_step(self, progress: float) -> None:
        """Let the key encoder follow and enqueue the keys."""
        online = nn.Sequential(self.backbone, self.head)
        ema_update(self.key_encoder, online, self.config.momentum)
        self.queue.commit(self.keys_per_step)
        if self.shuffled:
            self.shuffled.forget()

    def _query(self, images: Tensor) -> Tensor:
        h = self.backbone(images)
        z = unit(self.head(h))
        self.record_embeddings(h, z)
        return z

    def _key_views(self, batch: Batch) -> list[Tensor]:
        """The images that are keys: of x1, then symmetric those of x0, or x1's neighbours."""
        if self.clim:
            return list(batch.views[1].split(len(batch.index)))
        return [batch.views[1], batch.views[0]][: 1 + self.config.symmetric]

    @torch.no_grad()
    def _keys(self, batch: Batch) -> list[Tensor]:
        """Unit keys; with group batch norm the groups they are encoded in are shuffled."""
        views = self._key_views(batch)
        if self.shuffled is None:
            return [unit(self.key_encoder(images)) for images in views]
        of = self.shuffled.of
        return [of(self.key_encoder, images, batch, half) for half, images in enumerate(views)]
