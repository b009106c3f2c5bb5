"""Settings that methods with a memory bank share."""

from __future__ import annotations

from dataclasses import dataclass

from models.settings.base import MethodConfig
from pipelines.ranges import Count, Positive, Share


@dataclass(frozen=True)
class BankConfig(MethodConfig):
    """Numbers of a memory bank and its loss."""

    dim: Count = 128
    """Length of the embeddings."""
    negatives: Count = 16384
    """Rows of the bank drawn for each image, with replacement."""
    temperature: Positive = 0.07
    """Divisor of the cosines (STL-10: 0.1)."""
    momentum: Share = 0.5
    """EMA momentum of a row of the bank, at each visit of its image."""
    softmax: bool = False
    """Cross-entropy over the rows drawn, instead of noise-contrastive estimation."""

    def describe_coupling(self) -> str:
        """Return how the loss depends on the other rows of a batch."""
        return "" if self.softmax else "in the first step NCE's constant is a micro-batch's"
