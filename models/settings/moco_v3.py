"""Settings of MoCo v3: ``--moco-v3.*``."""

from __future__ import annotations

from dataclasses import dataclass

from models.settings.base import Defaults, MethodConfig
from pipelines.ranges import Count, Positive, Share, WholeNumber


@dataclass(frozen=True)
class MocoV3Config(MethodConfig):
    """Momentum contrast among the keys of the batch, with a predictor and without a queue."""

    batch_coupling = "the keys that a query meets are those of a micro-batch"
    takes_mixed_keys = True
    defaults = Defaults(
        optimizer="lars",
        lr_per_256=0.3,
        weight_decay=1.5e-6,
        views="moco-v3",
        bn="sync",
        decay_norm_and_bias=False,
        warmup_epochs=10,
        zero_init_last=True,
    )
    transformer = Defaults(  # the released code decays biases and norms as well
        "adamw", 1.5e-4, 0.1, "moco-v3", "sync", warmup_epochs=40, zero_init_last=True
    )

    dim: Count = 256
    """Length of queries and keys."""
    hidden: WholeNumber = 4096
    """Hidden width of projector and predictor."""
    momentum: Share = 0.996
    """EMA momentum of the key encoder at the first step; it rises to 1 along a cosine."""
    temperature: Positive = 1.0
    """Softmax temperature."""
    last_bias: bool = False
    """Bias of the predictor's last linear layer (the released code has none)."""

    @property
    def queries(self) -> tuple[int, ...]:
        """The query views."""
        return (0, 1)
