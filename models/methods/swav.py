"""SwAV with multi-crop, queue and frozen prototypes. Caron 2020, 2006.09882."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from models import losses
from models.collapse import prototype_usage
from models.distributed import gather
from models.losses import swav_mixtures
from models.methods.base import Method, Setup
from models.modules import heads
from models.modules.backbone import encode, num_features
from models.modules.prototypes import Prototypes
from models.modules.queue import Queue
from models.settings import Defaults, SwavConfig
from pipelines.batch import Batch


class Swav(Method):
    """``L = 1/2 sum_{a in 0,1} 1/(V-1) sum_{v != a} H(q_a, p_v)``, H averaged over rows.

    Mixtures of the first view of each pair (0, 2, 4, ...) add the same sum over the views in which
    they replace theirs, weighed as ``swav_mixtures`` says: ``with_mixtures`` under ``--swav.reverse
    paper``, ``in_both_orders`` under ``code`` and ``from_mixtures`` under ``predict``.
    """

    max_views = math.inf
    batch_coupling = "Sinkhorn balances the codes of a micro-batch"
    defaults = Defaults("lars", 0.3, 1e-6, "swav", "sync", warmup_epochs=10, final_lr_ratio=0.001)

    def __init__(self, backbone: nn.Module, config: SwavConfig, setup: Setup) -> None:
        if 0 < config.queue < setup.batch_size:
            raise ValueError(
                f"--swav.queue {config.queue}: 0, or at least --batch-size {setup.batch_size}"
            )
        if config.queue_mixtures and config.reverse != "code":
            raise ValueError("--swav.queue-mixtures is the released code's: --swav.reverse code")
        width = num_features(backbone)
        super().__init__(backbone, heads.projector(width, config.hidden, config.dim, norm=True))
        self.config = config
        self.batch_size = setup.batch_size
        self.queue_start = config.queue_start_epoch * setup.steps_per_epoch
        self.prototypes = Prototypes(
            config.prototypes, config.dim, config.temperature, config.epsilon, config.iterations
        )
        self.chained_lam = config.chained_lam
        self.queue: Queue | None = None  # of rows of view 0 | view 1
        if config.queue:
            self.queue = Queue(torch.zeros(config.queue, 2 * config.dim))
        self._step = self._queued = 0

    def mixed_views(self, num_views: int) -> tuple[int, ...]:
        """Return the first of each pair of views; a last view without a pair stays clean."""
        return tuple(range(0, num_views - 1, 2))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the clean term and, with mixtures, the mixed one."""
        self._step = batch.step
        n = len(batch.views)
        z = self._embed([*batch.views, *(m.image for m in batch.mixed)])
        log_p = [self.prototypes.log_p(rows) for rows in z]
        code = self.prototypes.code
        queue = self.queue if batch.step >= self.queue_start else None
        codes = [code(z[a], a, queue) for a in (0, 1)]
        self._push(z, 0, batch)
        terms = {"clean": swav_mixtures.on_pairs(codes, log_p[:n]).mean()}
        if not batch.mixed:
            return terms
        mixed = {m.view: m for m in batch.mixed}
        if self.chained_lam:
            mixed = swav_mixtures.weighed_by_the_last(mixed)
        for i, view in enumerate(mixed, start=n):
            z[view], log_p[view] = z[i], log_p[i]
        if self.config.reverse == "predict":
            rows = swav_mixtures.from_mixtures(codes, log_p[:n], mixed)
        elif self.config.reverse == "paper":
            codes[0] = code(z[0], 0, queue)
            rows = swav_mixtures.with_mixtures(codes, log_p[:n], mixed)
        else:
            push = partial(self._push, batch=batch) if self.config.queue_mixtures else None
            rows = swav_mixtures.in_both_orders(z[:2], log_p[:n], mixed[0], code, queue, push)
        return terms | {"mixed": rows.mean()}

    def after_backward(self) -> None:
        """Hold the prototypes still at the start (requires_grad would upset DDP)."""
        if self._step < self.config.freeze_steps:
            self.prototypes.weight.grad = None

    def after_step(self, progress: float) -> None:
        """Put the prototypes back on the sphere and queue the rows held."""
        self.prototypes.normalise()
        if self.queue is not None:
            self.queue.commit(self._queued)

    @torch.no_grad()
    def monitors(self) -> dict[str, Tensor]:
        """Add how evenly the last rows spread over the prototypes."""
        usage = prototype_usage(self.prototypes.scores(gather(self._seen["projection"])))
        return super().monitors() | {"prototype_usage": usage}

    def _embed(self, images: list[Tensor]) -> list[Tensor]:
        """Unit rows of each image batch."""
        features = encode(self.backbone, images)
        z = losses.unit(self.head(torch.cat(features))).split(len(images[0]))
        self.record_embeddings(features[0], z[0])
        return list(z)

    def _push(self, z: Sequence[Tensor], number: int, batch: Batch) -> None:
        """Hold this step's rows ``number`` of views 0 and 1 for the queue, once it has begun."""
        if self.queue is not None and batch.step >= self.queue_start:
            place = batch.position + number * self.batch_size
            self.queue.hold(batch.step, torch.cat(list(z[:2]), 1), place)
            self._queued = (number + 1) * self.batch_size
