"""SwAV with multi-crop, queue and frozen prototypes. Caron 2020, 2006.09882."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from models import heads, losses
from models.backbone import num_features
from models.distributed import gather, own_rows
from models.methods.base import Defaults, Method, Setup
from models.monitors import prototype_usage
from models.queue import Queue
from pipelines.batch import Batch


@dataclass(frozen=True)
class SwavConfig:
    """Prediction of one view's cluster code from the other views."""

    prototypes: int = 3000
    """Number of clusters (CIFAR: 100)."""
    dim: int = 128
    """Length of the projection."""
    hidden: int = 2048
    """Width of the head's hidden layer (CIFAR: 512)."""
    temperature: float = 0.1
    """Softmax temperature of the predictions."""
    epsilon: float = 0.05
    """Sharpness of the codes; smaller is sharper."""
    iterations: int = 3
    """Sinkhorn iterations."""
    queue: int = 0
    """Earlier rows that help to balance the codes, of each assignment view; 0: none."""
    queue_start_epoch: int = 15
    """First epoch, from 0, whose rows are queued."""
    freeze_steps: int = 313
    """Steps at the start in which the prototypes do not learn."""
    reverse: Literal["paper", "code", "predict"] = "paper"
    """Mixtures: paper = the author's formula, code = the released code, predict = without codes."""


class Swav(Method):
    """``L = 1/2 sum_{a in 0,1} 1/(V-1) sum_{v != a} H(q_a, p_v)``, H averaged over rows.

    Mixtures of the first view of each pair (0, 2, 4, ...) add the same sum over the views in which
    they replace theirs, each H as ``losses.swav_on_mixture`` says; under ``predict`` mixtures get
    no code, and the mean is over the pairs that have a mixture to predict from.
    """

    defaults = Defaults("lars", 0.3, 1e-6, "swav", "sync", warmup_epochs=10, final_lr_ratio=0.001)

    def __init__(self, backbone: nn.Module, config: SwavConfig, setup: Setup) -> None:
        if 0 < config.queue < setup.batch_size:
            raise ValueError(
                f"--swav.queue {config.queue}: 0, or at least --batch-size {setup.batch_size}"
            )
        width = num_features(backbone)
        super().__init__(backbone, heads.projector(width, config.hidden, config.dim, norm=True))
        self.config = config
        self.batch_size = setup.batch_size
        self.queue_start = config.queue_start_epoch * setup.steps_per_epoch
        self.prototypes = nn.Linear(config.dim, config.prototypes, bias=False).weight
        self._normalise_prototypes()
        self.queue: Queue | None = None  # of rows of view 0 | view 1, clean ones only
        if config.queue:
            self.queue = Queue(torch.zeros(config.queue, 2 * config.dim))
        self._step = 0

    def mixed_views(self, num_views: int) -> tuple[int, ...]:
        """Return the first of each pair of views; a last view without a pair stays clean."""
        return tuple(range(0, num_views - 1, 2))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the clean term and, with mixtures, the mixed one."""
        self._step = batch.step
        num_views = len(batch.views)
        z = self._embed([*batch.views, *(m.image for m in batch.mixed)])
        log_p = [losses.log_assignment(self._scores(rows), self.config.temperature) for rows in z]
        queue = self.queue if batch.step >= self.queue_start else None
        codes = [self._code(z[a], a, queue) for a in (0, 1)]
        if queue is not None:
            queue.hold(batch.step, torch.cat(z[:2], 1), batch.position)
        pairs = [(a, v) for a in (0, 1) for v in range(num_views) if v != a]
        terms = {"clean": torch.stack([losses.swav(codes[a], log_p[v]) for a, v in pairs]).mean()}
        if not batch.mixed:
            return terms

        mixed = {m.view: m for m in batch.mixed}
        coded = {a: m for a, m in mixed.items() if a < 2 and self.config.reverse != "predict"}
        if self.config.reverse == "predict":
            pairs = [(a, v) for a, v in pairs if v in mixed]
        for i, m in enumerate(batch.mixed, start=num_views):
            log_p[m.view] = log_p[i]
            if m.view in coded:
                codes[m.view] = self._code(z[i], m.view, queue)
        released = self.config.reverse == "code"
        rows = [
            losses.swav_on_mixture(codes[a], log_p[v], coded.get(a), mixed.get(v), released)
            for a, v in pairs
        ]
        return terms | {"mixed": torch.stack(rows).mean()}

    def after_backward(self) -> None:
        """Hold the prototypes still at the start (requires_grad would upset DDP)."""
        if self._step < self.config.freeze_steps:
            self.prototypes.grad = None

    def after_step(self, progress: float) -> None:
        """Put the prototypes back on the sphere and queue the clean rows."""
        self._normalise_prototypes()
        if self.queue is not None:
            self.queue.commit(self.batch_size)

    @torch.no_grad()
    def monitors(self) -> dict[str, Tensor]:
        """Add how evenly the last rows spread over the prototypes."""
        usage = prototype_usage(self._scores(gather(self._seen["projection"])))
        return super().monitors() | {"prototype_usage": usage}

    def _embed(self, images: list[Tensor]) -> list[Tensor]:
        """Unit rows of each image batch; equal sizes go through the backbone together."""
        by_size: dict[torch.Size, list[int]] = {}
        for i, x in enumerate(images):
            by_size.setdefault(x.shape[-2:], []).append(i)
        features = [self.backbone(torch.cat([images[i] for i in s])) for s in by_size.values()]
        z = losses.unit(self.head(torch.cat(features))).split(len(images[0]))
        self.see(features[0][: len(images[0])], z[0])
        order = [i for s in by_size.values() for i in s]
        return [z[order.index(i)] for i in range(len(images))]

    def _scores(self, z: Tensor) -> Tensor:
        return losses.scores(z, self.prototypes)

    @torch.no_grad()
    def _code(self, z: Tensor, view: int, queue: Queue | None) -> Tensor:
        """This rank's codes of rows ``z``, balanced over all ranks' rows and the view's queue."""
        scores = self._scores(gather(z))
        if queue is not None:
            earlier = self._scores(queue.rows.chunk(2, 1)[view])
            scores = torch.cat([scores, torch.where(queue.filled, earlier, -torch.inf)])
        codes = losses.sinkhorn(scores, self.config.epsilon, self.config.iterations)
        return codes[own_rows(len(z), z.device)]

    @torch.no_grad()
    def _normalise_prototypes(self) -> None:
        self.prototypes.copy_(losses.unit(self.prototypes))
