"""CMC, contrast of an image's lightness with its color. Tian 2020, 1906.05849."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from models.losses.common import unit
from models.methods.base import Method, Setup
from models.modules import heads
from models.modules.backbone import num_features
from models.modules.color import lightness_and_color
from models.modules.memory_bank import MemoryBank
from models.settings.cmc import CmcConfig, Space
from pipelines.batch import Batch


class Cmc(Method):
    """Two ResNets: one sees the first channel of another color space, one the other two.

    ``L = C(f_l, bank_ab) + C(f_ab, bank_l)``, where C is ``nce_loss`` or ``softmax_loss`` of the
    cosines divided by the temperature. Both directions have the same negatives. After the step, the
    image's row of each bank moves towards the embedding of the bank's own half.
    """

    def __init__(self, backbone: nn.ModuleList, config: CmcConfig, setup: Setup) -> None:
        encoders = Halves(*backbone, mean=setup.mean, std=setup.std, space=config.space)
        super().__init__(encoders, HalfHeads(encoders.widths, config.dim))
        generator = torch.Generator().manual_seed(setup.seed)
        self.bank_l = MemoryBank(setup.num_rows, config, generator)
        self.bank_ab = MemoryBank(setup.num_rows, config, generator)

    @classmethod
    def build_backbone(cls, config: CmcConfig, create: Callable[..., nn.Module]) -> nn.Module:
        """Return an encoder of one channel and one of two, both ``config.width`` wide."""
        return nn.ModuleList([create(in_chans=c, width=config.width) for c in (1, 2)])

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the clean term, the sum of both directions."""
        (x,) = batch.views
        h = self.backbone(x)
        f = self.head(h)
        self.record_embeddings(h, unit(f))
        f_l, f_ab = f.chunk(2, 1)
        rows = self.bank_l.candidates(batch)
        loss = self.bank_ab.contrast(f_l, rows) + self.bank_l.contrast(f_ab, rows)
        self.bank_l.stage(f_l, batch)
        self.bank_ab.stage(f_ab, batch)
        return {"clean": loss.mean()}

    def after_step(self, progress: float) -> None:
        """Update the batch's rows of both banks."""
        self.bank_l.commit()
        self.bank_ab.commit()


class Halves(nn.Module):
    """Both encoders: from normalized RGB images to their concatenated features."""

    def __init__(
        self,
        lightness: nn.Module,
        color: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        space: Space,
    ) -> None:
        super().__init__()
        self.lightness, self.colour = lightness, color  # names in checkpoints
        self.mean, self.std, self.space = mean, std, space
        self.widths = num_features(lightness), num_features(color)
        self.num_features = sum(self.widths)

    def forward(self, images: Tensor) -> Tensor:
        """Return features (n, num_features), lightness first."""
        first, others = lightness_and_color(images, self.mean, self.std, self.space)
        return torch.cat([self.lightness(first), self.colour(others)], 1)


class HalfHeads(nn.Module):
    """Both heads: from the encoders' features to their concatenated unit embeddings."""

    def __init__(self, widths: tuple[int, int], dim: int) -> None:
        super().__init__()
        self.widths = widths
        self.lightness, self.colour = (heads.mlp(width, dim, norm=False) for width in widths)

    def forward(self, features: Tensor) -> Tensor:
        """Return embeddings (n, 2 dim), lightness first."""
        first, others = torch.split(features, list(self.widths), 1)
        return torch.cat([unit(self.lightness(first)), unit(self.colour(others))], 1)
