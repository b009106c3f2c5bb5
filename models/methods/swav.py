"""SwAV with multi-crop, queue and frozen prototypes. Caron 2020, 2006.09882."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from models.collapse import prototype_usage
from models.distributed import gather
from models.losses import view_pairs
from models.methods.base import Method, Setup
from models.modules import heads
from models.modules.backbone import num_features
from models.modules.prototypes import Prototypes
from models.modules.queue import Queue
from models.settings.swav import SwavConfig
from pipelines.batch import Batch, Mixed


class Swav(Method):
    """``L = 1/2 sum_{a in 0,1} 1/(V-1) sum_{v != a} H(q_a, p_v)``, H averaged over rows.

    The first view of each pair (0, 2, 4, ...) has a mixture. The mixed term is the same sum with
    mixtures in place of their views, weighted as ``view_pairs`` defines: by ``with_mixtures`` for
    ``--swav.reverse paper``, ``in_both_orders`` for ``code`` and ``from_mixtures`` for ``predict``.
    """

    def __init__(self, backbone: nn.Module, config: SwavConfig, setup: Setup) -> None:
        width = num_features(backbone)
        super().__init__(backbone, heads.projector(width, config.hidden, config.dim, norm=True))
        self.config = config
        self.batch_size = setup.batch_size
        self.queue_start = config.queue_start_epoch * setup.steps_per_epoch
        self.prototypes = Prototypes(
            config.prototypes, config.dim, config.temperature, config.epsilon, config.iterations
        )
        self.chained_lam = config.chained_lam
        self.queue: Queue | None = None  # a row: view 0 and view 1, side by side
        if config.queue:
            self.queue = Queue(torch.zeros(config.queue, 2 * config.dim))
        self._step = self._queued = 0

    def mixed_views(self, num_views: int) -> tuple[int, ...]:
        """Return the first of each pair of views; a last, unpaired view stays clean."""
        return tuple(range(0, num_views - 1, 2))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the clean term and, with mixtures, the mixed one."""
        self._step = batch.step
        n, images = len(batch.views), [*batch.views, *(m.image for m in batch.mixed)]
        z = self.embed_views(images).chunk(len(images))
        log_p = [self.prototypes.log_p(rows) for rows in z]
        queue = self.queue if batch.step >= self.queue_start else None
        codes = [self.prototypes.code(z[a], a, queue) for a in (0, 1)]
        self._push(z, 0, batch)
        terms = {"clean": view_pairs.on_pairs(codes, log_p[:n]).mean()}
        for suffix, mixed in batch.mixtures().items():
            rows, predictions = list(z[:n]), log_p[:n]
            for i, m in enumerate(batch.mixed, start=n):
                if m.suffix == suffix:
                    rows[m.view], predictions[m.view] = z[i], log_p[i]
            loss = self._on_mixtures(rows, predictions, codes, mixed, queue, batch)
            terms[f"mixed{suffix}"] = loss.mean()
        return terms

    def _on_mixtures(
        self,
        z: list[Tensor],
        log_p: list[Tensor],
        codes: list[Tensor],
        mixed: dict[int, Mixed],
        queue: Queue | None,
        batch: Batch,
    ) -> Tensor:
        """Return the mixed term of each row; ``z`` and ``log_p`` hold mixtures in their views."""
        if self.chained_lam:
            mixed = view_pairs.with_last_lam(mixed)
        if self.config.reverse == "predict":
            return view_pairs.from_mixtures(codes, log_p, mixed)
        code = self.prototypes.code
        if self.config.reverse == "paper":
            return view_pairs.with_mixtures([code(z[0], 0, queue), codes[1]], log_p, mixed)
        push = partial(self._push, batch=batch) if self.config.queue_mixtures else None
        return view_pairs.in_both_orders(z[:2], log_p, mixed[0], code, queue, push)

    def after_backward(self) -> None:
        """Freeze the prototypes at the start; DDP allows no change of ``requires_grad``."""
        if self._step < self.config.freeze_steps:
            self.prototypes.weight.grad = None

    def after_step(self, progress: float) -> None:
        """Normalize the prototypes and enqueue the staged rows."""
        self.prototypes.normalize()
        if self.queue is not None:
            self.queue.commit(self._queued)

    @torch.no_grad()
    def monitors(self) -> dict[str, Tensor]:
        """Add how evenly the rows of the last forward spread over the prototypes."""
        usage = prototype_usage(self.prototypes.scores(gather(self._recorded["projection"])))
        return super().monitors() | {"prototype_usage": usage}

    def _push(self, z: Sequence[Tensor], number: int, batch: Batch) -> None:
        """Stage views 0 and 1 as the step's ``number``-th rows, once the queue has started."""
        if self.queue is not None and batch.step >= self.queue_start:
            place = batch.position + number * self.batch_size
            self.queue.stage(batch.step, torch.cat(list(z[:2]), 1), place)
            self._queued = (number + 1) * self.batch_size
