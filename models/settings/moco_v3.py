"""Settings of MoCo v3: ``--moco-v3.*``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tyro.conf import DisallowNone

from models.settings.backbones import is_transformer
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
        "adamw", 1.5e-4, 0.1, "byol", "sync", warmup_epochs=40, zero_init_last=True
    )

    dim: Count = 256
    """Length of queries and keys."""
    hidden: WholeNumber = 4096
    """Hidden width of projector and predictor."""
    layers: DisallowNone[Count | None] = None
    """Linear layers of the projector; None: 2, for transformers 3."""
    predictor_norm: DisallowNone[bool | None] = None
    """Batch norm after the predictor's last layer too; None: for transformers only."""
    momentum: DisallowNone[Share | None] = None
    """EMA momentum of the keys at first; it rises to 1. None: 0.996, for transformers 0.99."""
    temperature: DisallowNone[Positive | None] = None
    """Softmax temperature; None: 1, for transformers 0.2."""
    last_bias: bool = False
    """Bias of the predictor's last linear layer (the released code has none)."""

    def suited(self, backbone: str) -> MocoV3Config:
        """Return the numbers with what is open as published for ResNets, or for transformers."""
        published = VIT if is_transformer(backbone) else RESNET
        left = {name: value for name, value in published.items() if getattr(self, name) is None}
        return replace(self, **left)

    @property
    def queries(self) -> tuple[int, ...]:
        """The query views."""
        return (0, 1)


RESNET: dict[str, Any] = {
    "layers": 2,
    "predictor_norm": False,
    "momentum": 0.996,
    "temperature": 1.0,
}
"""The numbers of the ResNet-50's 1000 epochs."""
VIT: dict[str, Any] = {"layers": 3, "predictor_norm": True, "momentum": 0.99, "temperature": 0.2}
"""The numbers of the ViTs' 300 epochs."""
