"""InsDis, instance discrimination with a memory bank. Wu 2018, 1805.01978."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.losses.common import unit
from models.methods.base import Method, Setup
from models.modules import heads
from models.modules.backbone import num_features
from models.modules.memory_bank import MemoryBank
from models.settings.insdis import InsdisConfig
from pipelines.batch import Batch


class Insdis(Method):
    """A view is contrasted with its image's row of a memory bank, among rows of other images.

    ``L`` is ``nce_loss`` or ``softmax_loss`` of the cosines divided by the temperature. After the
    step, the image's row moves towards the view.
    """

    def __init__(self, backbone: nn.Module, config: InsdisConfig, setup: Setup) -> None:
        super().__init__(backbone, heads.mlp(num_features(backbone), config.dim, norm=False))
        generator = torch.Generator().manual_seed(setup.seed)
        self.bank = MemoryBank(setup.num_rows, config, generator)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the clean term."""
        (x,) = batch.views
        h = self.backbone(x)
        f = unit(self.head(h))
        self.record_embeddings(h, f)
        self.bank.stage(f, batch)
        return {"clean": self.bank.contrast(f, self.bank.candidates(batch)).mean()}

    def after_step(self, progress: float) -> None:
        """Update the batch's rows of the bank."""
        self.bank.commit()
