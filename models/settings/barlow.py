"""Settings of Barlow Twins: ``--barlow.*``."""

from __future__ import annotations

from dataclasses import dataclass

from models.settings.base import Defaults, MethodConfig
from pipelines.ranges import Count, NonNegative, WholeNumber


@dataclass(frozen=True)
class BarlowConfig(MethodConfig):
    """Views whose dimensions correlate each with itself and with no other."""

    mixes_groups = False
    batch_coupling = "correlations are those of a micro-batch"
    defaults = Defaults(
        optimizer="lars",
        lr_per_256=0.2,
        weight_decay=1e-6,
        views="byol",
        bn="sync",
        decay_norm_and_bias=False,
        warmup_epochs=10,
        final_lr_ratio=0.001,
        zero_init_last=True,
    )

    dim: Count = 8192
    """Length of the projection."""
    hidden: WholeNumber = 8192
    """Width of the projector's two hidden layers."""
    off_diagonal: NonNegative = 0.0051
    """Weight of the correlations between different dimensions."""
    bias_lr: NonNegative = 0.0015
    """Learning rate of biases and batch norm as a share of the weights' (.0048 / .2 / 16 GPUs)."""

    mix_weight: NonNegative = 1.0
    """Weight of Mixed Barlow Twins' term (--mix mixed-barlow); 0: plain Barlow Twins."""

    @property
    def needs_mutual_partners(self) -> bool:
        """Yes: the second order of the mixture is its rows at the partners' places."""
        return True
