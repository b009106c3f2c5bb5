"""Settings of DINO: ``--dino.*``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from models.settings.base import Defaults, MethodConfig
from pipelines.ranges import Count, Positive, Share, WholeNumber


@dataclass(frozen=True)
class DinoConfig(MethodConfig):
    """Prediction of a slow teacher's centred and sharpened assignment from the other views."""

    max_views = math.inf
    batch_coupling = ""
    defaults = Defaults(
        "momentum", 0.03, 1e-4, "dino", "sync", decay_norm_and_bias=False, warmup_epochs=10
    )
    transformer = Defaults(
        optimizer="adamw",
        lr_per_256=5e-4,
        weight_decay=0.04,
        views="dino-vit",
        bn="sync",
        decay_norm_and_bias=False,
        warmup_epochs=10,
        weight_decay_end=0.4,
    )

    prototypes: Count = 65536
    """Length of the assignment."""
    dim: Count = 256
    """Length of the projection."""
    hidden: WholeNumber = 2048
    """Width of the head's two hidden layers."""
    head_bn: bool = False
    """Batch norm in the head."""
    temperature: Positive = 0.1
    """Softmax temperature of the student."""
    first_teacher_temperature: Positive = 0.04
    """Softmax temperature of the teacher at the first step."""
    teacher_temperature: Positive = 0.07
    """Softmax temperature of the teacher after its warm-up."""
    temperature_epochs: WholeNumber = 30
    """Epochs of the linear warm-up of the teacher's temperature."""
    momentum: Share = 0.996
    """EMA momentum of the teacher at the first step; it rises to 1 along a cosine."""
    centre_momentum: Share = 0.9
    """EMA momentum of the centre of the teacher's scores."""
    freeze_epochs: WholeNumber = 1
    """Epochs at the start during which the prototypes are frozen."""

    @property
    def pasted_views(self) -> tuple[int, ...]:
        """Both large views, which the student sees pasted and the teacher plain."""
        return (0, 1)
