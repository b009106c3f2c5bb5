"""Settings of W-MSE: ``--wmse.*``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from models.settings.base import ClimTerms, Defaults, MethodConfig
from pipelines.ranges import Count, Range, WholeNumber


@dataclass(frozen=True)
class WmseConfig(MethodConfig):
    """Agreement of whitened views."""

    max_views = math.inf
    batch_coupling = "the rows whitened together are drawn from a micro-batch"
    defaults = Defaults("adam", 1.5e-3, 1e-6, "whitening", "sync", warmup_epochs=5)

    dim: Count = 64
    """Length of the projection (images of 64 pixels and more: 128)."""
    hidden: WholeNumber = 1024
    """Width of the head's hidden layer."""
    sub_batch: Annotated[int, Range(2)] = 128
    """Rows whitened together: even, above dim (256 for 128), a divisor of --batch-size."""
    permutations: Count = 1
    """Draws of sub-batches a step, averaged over (STL-10, Tiny ImageNet: 4 with two views)."""

    @property
    def needs_mutual_partners(self) -> bool:
        """Yes: pairs stay together when rows are drawn into sub-batches."""
        return True

    @property
    def row_unit(self) -> int:
        """The size of a sub-batch."""
        return self.sub_batch

    def check(self, batch_size: int, clim: ClimTerms | None) -> None:
        """Refuse sub-batches that do not divide the batch, or cannot be whitened."""
        size = self.sub_batch
        if size <= self.dim or size % 2 or batch_size % size:
            raise ValueError(
                f"--wmse.sub-batch {size} must be even, a divisor of --batch-size {batch_size} "
                f"and above --wmse.dim {self.dim}, or the covariance has no inverse"
            )
