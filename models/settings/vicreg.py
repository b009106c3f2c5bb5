"""Settings of VICReg: ``--vicreg.*``."""

from __future__ import annotations

from dataclasses import dataclass

from models.settings.base import Defaults, MethodConfig
from pipelines.ranges import Count, NonNegative, WholeNumber


@dataclass(frozen=True)
class VicregConfig(MethodConfig):
    """Equal views, of which every dimension varies and none follows another."""

    replaces_clean = True
    batch_coupling = "variances and covariances are those of a micro-batch"
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
    invariance: NonNegative = 25.0
    """Weight of the squared distance between the views."""
    variance: NonNegative = 25.0
    """Weight of the hinge on each dimension's standard deviation, the mean of the two views."""
    covariance: NonNegative = 1.0
    """Weight of the covariances between different dimensions."""
