"""The contract of a self-supervised method, between the trainer and ``models``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models import collapse, losses
from models.distributed import gather
from models.losses.clim import ClimLoss
from models.modules.backbone import encode
from models.optim import LrScale
from models.settings.base import BnMode, MixTerms, QuerySizes, Which
from pipelines.batch import Batch


@dataclass(frozen=True)
class Setup:
    """The properties of a run that a method needs to know."""

    bn: BnMode
    """``group``: batch-norm statistics of each group; ``sync``: of all ranks' rows."""
    group_size: int
    """Rows of a group."""
    batch_size: int
    """Images of a step over all ranks and micro-batches."""
    seed: int
    """Of the queue's first rows, and of a method's own draws."""
    steps_per_epoch: int
    """For what starts at an epoch."""
    num_views: int = 2
    """Views of each image."""
    num_rows: int = 0
    """Images of the data set, for methods that remember each; ``Batch.index`` is below it."""
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    """Mean by which each channel of a view in [0, 1] was normalized."""
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    """Deviation by which each channel was normalized."""
    clim: ClimLoss | None = None
    """CLIM's loss, if batches hold neighbors."""
    mix_terms: MixTerms = "add"
    """Whether mixtures' terms are added to the clean one, or replace it."""
    sizes: QuerySizes = QuerySizes()
    """The sides at which queries are shown."""


class Method(nn.Module):
    """A self-supervised method: images in, loss terms out.

    A training step is ``forward(batch)``, backward of the sum of the terms, ``after_backward()``,
    the optimizer's step, ``after_step(progress)``. With ``--accumulate`` it starts with
    ``before_accumulation(batch, count)``, and forward and backward run once per micro-batch.

    ``forward`` changes no state except the running statistics of batch norm. Terms are means over
    this rank's rows: their mean over ranks is the global loss, and DDP's mean over the gradients is
    the global gradient.
    """

    scored: Which = "online"
    """The encoder that is evaluated and exported: the paper's choice, unless set otherwise."""
    chained_lam: bool = False
    """Whether a view's box is drawn from the share that the previous view's box left."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self._recorded: dict[str, Tensor] = {}
        self.register_forward_pre_hook(lambda *_: self._recorded.clear())

    @classmethod
    def build_backbone(cls, config: Any, create: Callable[..., nn.Module]) -> nn.Module:
        """Return the backbone; ``create(in_chans=3, width=1.0)`` builds one model."""
        return create()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return each loss term, a scalar; their sum is what is minimised."""
        raise NotImplementedError

    def before_accumulation(self, batch: Batch, count: int) -> None:
        """Prepare for a step whose rows come in ``count`` micro-batches, one forward each."""

    def after_backward(self) -> None:
        """Change gradients before the optimizer's step."""

    def after_step(self, progress: float) -> None:
        """Update EMA copies, queues and banks; ``progress`` is the finished share of the run."""

    def features(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Return the features of the scored encoder."""
        h: Tensor = self.scored_encoder(images)
        return h

    def project(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Return the projections by the scored encoder and its head, as unit rows."""
        if self.scored == "online":
            return losses.unit(self.head(self.backbone(images)))
        encoder = self.scored_encoder
        pairs = (m for m in self.modules() if isinstance(m, nn.Sequential) and len(m) == 2)
        return losses.unit(next(pair for pair in pairs if pair[0] is encoder)(images))

    def lr_scale(self, name: str, parameter: nn.Parameter) -> LrScale:
        """Return how a parameter's learning rate follows that of the run."""
        return LrScale()

    def mixed_views(self, num_views: int) -> tuple[int, ...]:
        """Return the views that are mixed."""
        return (0,)

    @property
    def online(self) -> nn.Sequential:
        """The trained backbone and head, of which a momentum encoder is a copy."""
        return nn.Sequential(self.backbone, self.head)

    def encoders(self) -> list[nn.Module]:
        """Return the backbone and its momentum copy, if there is one."""
        return [module for module in self.modules() if type(module) is type(self.backbone)]

    @property
    def scored_encoder(self) -> nn.Module:
        """The backbone that is evaluated and exported."""
        return self.backbone if self.scored == "online" else self.encoders()[1]

    @property
    def named_encoder(self) -> Which | None:
        """Name of the scored encoder; None if there is only one."""
        return self.scored if len(self.encoders()) > 1 else None

    def embed_views(self, images: Sequence[Tensor]) -> Tensor:
        """Return the unit projections of all image batches, concatenated; record the first."""
        features = encode(self.backbone, images)
        z = losses.unit(self.head(torch.cat(features)))
        self.record_embeddings(features[0], z[: len(images[0])])
        return z

    def record_embeddings(self, features: Tensor, projection: Tensor) -> None:
        """Keep the rows of a forward's first call, its first view, for ``monitors``."""
        self._recorded.setdefault("features", features.detach())
        self._recorded.setdefault("projection", projection.detach())

    @torch.no_grad()
    def monitors(self) -> dict[str, Tensor]:
        """Return statistics of all ranks' rows of the last forward, scalars on the device.

        For the log line only: singular values take time, and the host waits for them.
        """
        values = {}
        for name, rows in self._recorded.items():
            rows = gather(rows)
            values[f"{name}_std"] = collapse.feature_std(rows)
            values[f"{name}_rank"] = collapse.effective_rank(rows)
        return values
