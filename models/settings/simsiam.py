"""Settings of SimSiam: ``--simsiam.*``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.settings.base import Defaults, MethodConfig
from pipelines.ranges import Count, WholeNumber


@dataclass(frozen=True)
class SimsiamConfig(MethodConfig):
    """Prediction of the other view's projection, which takes no gradient."""

    replaces_clean = True
    batch_coupling = ""
    defaults = Defaults(
        optimizer="momentum",
        lr_per_256=0.05,
        weight_decay=1e-4,
        views="moco-v2",
        bn="sync",
        zero_init_last=True,
    )

    dim: Count = 2048
    """Width of the projector and length of the projection."""
    hidden: WholeNumber = 512
    """Hidden width of the predictor."""
    layers: Literal[2, 3] = 3
    """Linear layers of the projector (CIFAR: 2)."""
    constant_predictor_lr: bool = True
    """Keep the predictor's learning rate at the peak; off: it falls with the others'."""
