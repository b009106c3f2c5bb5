"""Settings of SwAV: ``--swav.*``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from models.settings.base import ClimTerms, Defaults, MethodConfig
from pipelines.ranges import Count, Positive, WholeNumber


@dataclass(frozen=True)
class SwavConfig(MethodConfig):
    """Prediction of one view's cluster code from the other views."""

    max_views = math.inf
    batch_coupling = "Sinkhorn balances the codes of a micro-batch"
    defaults = Defaults("lars", 0.3, 1e-6, "swav", "sync", warmup_epochs=10, final_lr_ratio=0.001)

    prototypes: Count = 3000
    """Number of clusters (CIFAR: 100)."""
    dim: Count = 128
    """Length of the projection."""
    hidden: WholeNumber = 2048
    """Width of the head's hidden layer (CIFAR: 512)."""
    temperature: Positive = 0.1
    """Softmax temperature of the predictions."""
    epsilon: Positive = 0.05
    """Sharpness of the codes; smaller is sharper."""
    iterations: Count = 3
    """Sinkhorn iterations."""
    queue: WholeNumber = 0
    """Earlier rows in the queue of each assignment view, to balance the codes; 0: no queue."""
    queue_start_epoch: WholeNumber = 15
    """First epoch, from 0, whose rows are queued."""
    freeze_steps: WholeNumber = 313
    """Steps at the start during which the prototypes are frozen."""
    reverse: Literal["paper", "code", "predict"] = "paper"
    """Mixtures: paper = the author's formula, code = the released code, predict = without codes."""
    chained_lam: bool = False
    """Draw each view's box from the share the last one left, which weighs all (released code)."""
    queue_mixtures: bool = False
    """Queue mixtures too, in both orders (released code; needs --swav.reverse code)."""

    @property
    def needs_mutual_partners(self) -> bool:
        """Whether codes are computed for the mixture's second order, its partners' rows."""
        return self.reverse == "code"

    def check(self, batch_size: int, clim: ClimTerms | None) -> None:
        """Refuse a queue shorter than a batch, and queued mixtures without codes."""
        if 0 < self.queue < batch_size:
            raise ValueError(f"--swav.queue {self.queue}: 0, or at least --batch-size {batch_size}")
        if self.queue_mixtures and self.reverse != "code":
            raise ValueError("--swav.queue-mixtures needs --swav.reverse code")
