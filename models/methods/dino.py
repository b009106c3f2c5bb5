"""DINO with multi-crop. Caron 2021, 2104.14294."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models import losses
from models.collapse import prototype_usage
from models.distributed import gather
from models.losses.view_pairs import from_mixtures, on_pairs
from models.methods.base import Method, Setup
from models.modules import heads
from models.modules.backbone import encode, num_features
from models.modules.center import Center
from models.modules.ema import cosine_momentum, ema_update, momentum_copy
from models.settings.dino import DinoConfig
from pipelines.batch import Batch


class Dino(Method):
    """``L`` = mean of ``H(P_t(x_a), P_s(x_v))`` over the pairs a in (0, 1), v != a.

    The teacher's ``P_t = softmax((g - c) / T_t)``, where c is an EMA of its scores g. The first
    view of each pair (0, 2, 4, ...) has a mixture. The mixed term is the mean over the pairs with a
    mixed v: ``lam H(P_t(x_a), P_s(m)) + (1 - lam) H(P_t(x_a)[partner], P_s(m))``. The teacher sees
    clean views only.
    """

    scored = "momentum"

    def __init__(self, backbone: nn.Module, config: DinoConfig, setup: Setup) -> None:
        sizes = (num_features(backbone), config.hidden, config.hidden, config.dim)
        head = heads.mlp(*sizes, norm=config.head_bn, activation=nn.GELU)
        super().__init__(backbone, head.apply(heads.init_truncated_normal))
        self.config = config
        self.steps_per_epoch = setup.steps_per_epoch
        self.prototypes = nn.Linear(config.dim, config.prototypes, bias=False)
        self.teacher = momentum_copy(self.online)
        self.teacher_prototypes = momentum_copy(self.prototypes)
        self.centre = Center(config.prototypes, config.centre_momentum)  # name in checkpoints
        self._step = 0

    def mixed_views(self, num_views: int) -> tuple[int, ...]:
        """Return the first of each pair of views; a last, unpaired view stays clean."""
        return tuple(range(0, num_views - 1, 2))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the clean term and, with mixtures, the mixed one."""
        self._step = batch.step
        targets = self._targets(batch).chunk(2)
        images = [*batch.views, *(m.image for m in batch.mixed)]
        g = scores(self.embed_views(images), self.prototypes)
        log_p = losses.log_assignment(g, self.config.temperature).chunk(len(images))
        clean, of_mixtures = log_p[: len(batch.views)], log_p[len(batch.views) :]
        terms = {"clean": on_pairs(targets, clean).mean()}
        for suffix, mixed in batch.mixtures().items():
            views = list(clean)
            for m, p in zip(batch.mixed, of_mixtures, strict=True):
                if m.suffix == suffix:
                    views[m.view] = p
            terms[f"mixed{suffix}"] = from_mixtures(targets, views, mixed).mean()
        return terms

    def after_backward(self) -> None:
        """Freeze the prototypes at the start; DDP allows no change of ``requires_grad``."""
        if self._step < self.config.freeze_epochs * self.steps_per_epoch:
            self.prototypes.weight.grad = None

    def after_step(self, progress: float) -> None:
        """Update the teacher and the center of its scores."""
        momentum = cosine_momentum(self.config.momentum, progress)
        ema_update(self.teacher, self.online, momentum)
        ema_update(self.teacher_prototypes, self.prototypes, momentum)
        self.centre.commit()

    @torch.no_grad()
    def monitors(self) -> dict[str, Tensor]:
        """Add how evenly the rows of the last forward spread over the prototypes."""
        usage = prototype_usage(scores(gather(self._recorded["projection"]), self.prototypes))
        return super().monitors() | {"prototype_usage": usage}

    def teacher_temperature(self, step: int) -> float:
        """Return the teacher's temperature at a step: linear warm-up, then constant."""
        first, last = self.config.first_teacher_temperature, self.config.teacher_temperature
        warmup = self.config.temperature_epochs * self.steps_per_epoch
        return last if step >= warmup else first + (last - first) * step / warmup

    @torch.no_grad()
    def _targets(self, batch: Batch) -> Tensor:
        """Return the teacher's assignments of views 0 and 1; stage their scores for the center."""
        z = losses.unit(torch.cat(encode(self.teacher, batch.targets[:2])))
        g = scores(z, self.teacher_prototypes)
        self.centre.stage(batch.step, g)
        return assignment(g, self.centre.value, self.teacher_temperature(batch.step))


def scores(z: Float[Tensor, "n d"], prototypes: nn.Linear) -> Float[Tensor, "n k"]:
    """Return the cosines of unit rows with the prototypes: weight norm with a fixed length of 1."""
    return losses.scores(z, losses.unit(prototypes.weight))


@losses.full_precision
def assignment(
    g: Float[Tensor, "n k"], center: Float[Tensor, " k"], temperature: float
) -> Float[Tensor, "n k"]:
    """Return ``softmax((g - center) / temperature)``. Source: Caron 2021, 2104.14294, eq. 1."""
    return ((g - center) / temperature).softmax(1)
