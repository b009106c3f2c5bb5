"""What every method is: the contract between ``train.py`` and ``models``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models import collapse, losses
from models.distributed import gather
from models.losses.clim import ClimLoss
from models.multi_resolution import QuerySizes
from models.optim import LrScale
from models.settings import BnMode, Defaults
from pipelines.batch import Batch

Which = Literal["online", "momentum"]
"""An encoder of a method: the one that learns, or its momentum (EMA) copy."""


@dataclass(frozen=True)
class Setup:
    """What a method has to know about its run."""

    bn: BnMode
    group_size: int
    batch_size: int
    seed: int
    steps_per_epoch: int
    num_views: int
    num_rows: int
    """Images of the data set; ``Batch.index`` is below it."""
    mean: tuple[float, float, float]
    """What views were normalised by, in [0, 1]: mean ..."""
    std: tuple[float, float, float]
    """... and deviation of each channel."""
    clim: ClimLoss | None = None
    """With CLIM's neighbours in the batches: how its terms are weighted."""
    sizes: QuerySizes = QuerySizes()
    """The sides at which queries are shown."""


class Method(nn.Module):
    """A self-supervised method: images in, loss terms out.

    The trainer's step is ``forward(batch)``, backward of the terms' sum, ``after_backward()``, the
    optimiser, ``after_step(progress)``; with ``--accumulate`` it is ``before_parts(batch, count)``,
    then forward and backward of each micro-batch, then the same. ``forward`` changes no state but
    batch norm's running statistics. Terms are means over this rank's rows; their mean over ranks is
    the global loss, and so is DDP's mean of the gradients.
    """

    defaults: ClassVar[Defaults]
    min_views: ClassVar[int] = 2
    max_views: ClassVar[float] = 2
    """Numbers of views of an image that it takes; ``math.inf``: any from the least on."""
    mixes_groups: ClassVar[bool] = True
    """Whether each group may draw a mixture of its own (``--mix-draw group``)."""
    supports_unmix: ClassVar[bool] = True
    """Whether it has a loss for mixtures; one without takes those that keep the targets alone."""
    supports_clim: ClassVar[bool] = False
    """Whether it has a loss for CLIM, whose partners are no rows of the batch."""
    batch_coupling: ClassVar[str] = "the loss looks at a micro-batch alone"
    """What ``across`` says of it."""
    scored: Which = "online"
    """The encoder whose features count: its paper's, unless an instance is set otherwise."""
    chained_lam: bool = False
    """Whether a view's box is drawn from the share left by the box before it."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self._seen: dict[str, Tensor] = {}
        self.register_forward_pre_hook(lambda *_: self._seen.clear())

    @classmethod
    def build_backbone(cls, config: Any, create: Callable[..., nn.Module]) -> nn.Module:
        """Return what the method is built on; ``create(in_chans=3, width=1.0)`` makes a model."""
        return create()

    @classmethod
    def queries(cls, config: Any) -> tuple[int, ...]:
        """Return the views that meet keys of a network of their own; without such a one, none."""
        return ()

    @classmethod
    def across(cls, config: Any) -> str:
        """Return what of its loss looks across the rows of a batch, in words; "" if nothing does.

        Such a loss is another one on micro-batches (``--accumulate``).
        """
        return cls.batch_coupling

    @classmethod
    def row_unit(cls, config: Any) -> int:
        """Return the number of which all ranks' rows in a forward must be a multiple."""
        return 1

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return each loss term, a scalar; their sum is what is minimised."""
        raise NotImplementedError

    def before_parts(self, batch: Batch, count: int) -> None:
        """Look at a step's rows before they come in ``count`` micro-batches, one forward each."""

    def after_backward(self) -> None:
        """Change gradients before the optimiser sees them."""

    def after_step(self, progress: float) -> None:
        """Move whatever follows the weights; ``progress`` is the share of the run done, 0 to 1."""

    def features(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Return the features of the encoder that is scored."""
        return self.scored_encoder(images)

    def project(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Return the projection by the encoder that is scored, and its head, as unit rows."""
        if self.scored == "online":
            return losses.unit(self.head(self.backbone(images)))
        encoder = self.scored_encoder
        pairs = (m for m in self.modules() if isinstance(m, nn.Sequential) and len(m) == 2)
        return losses.unit(next(pair for pair in pairs if pair[0] is encoder)(images))

    def lr_scale(self, name: str, parameter: nn.Parameter) -> LrScale:
        """Return how a parameter's learning rate follows the run's."""
        return LrScale()

    def mixed_views(self, num_views: int) -> tuple[int, ...]:
        """Return which of the views are to be mixed."""
        return (0,)

    def encoders(self) -> list[nn.Module]:
        """Return the backbone and its momentum copy, if there is one."""
        return [module for module in self.modules() if type(module) is type(self.backbone)]

    @property
    def scored_encoder(self) -> nn.Module:
        """The backbone that is scored and exported."""
        return self.backbone if self.scored == "online" else self.encoders()[1]

    @property
    def named_encoder(self) -> Which | None:
        """Which encoder is scored; None where there is only one."""
        return self.scored if len(self.encoders()) > 1 else None

    def record_embeddings(self, features: Tensor, projection: Tensor) -> None:
        """Keep the rows of a forward's first clean view, the first to be seen, for ``monitors``."""
        self._seen.setdefault("features", features.detach())
        self._seen.setdefault("projection", projection.detach())

    @torch.no_grad()
    def monitors(self) -> dict[str, Tensor]:
        """Return scalars about all ranks' rows of the last forward, on the device.

        For the log line only: the singular values take time, and on a GPU wait for it.
        """
        values = {}
        for name, rows in self._seen.items():
            rows = gather(rows)
            values[f"{name}_std"] = collapse.feature_std(rows)
            values[f"{name}_rank"] = collapse.effective_rank(rows)
        return values
