"""Mixed Barlow Twins' mixture: a row of view 0 blended with another row of view 1.

Source: Bandara 2023, arXiv:2312.02151. ``m = lam x0 + (1 - lam) x1[partner]`` with one share for
all rows of a step, ``lam ~ Beta(beta, beta)``, not folded. The paper permutes the rows at random;
here the partner is the row mirrored in its group, a random row too, since rows are shuffled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pipelines.batch import Mixed
from pipelines.mixtures.base import NO_ROWS, BatchOnly, LossKind, MixStep, Rows, Views
from pipelines.mixtures.unmix import check_pairs, mirrored
from pipelines.rng import RowRng

STREAM = 1 << 25
"""Its shares have a stream of their own, so that no other draw depends on them."""


@dataclass(frozen=True)
class CrossView:
    """One mixture a step, of views 0 and 1."""

    loss: ClassVar[LossKind] = "soft targets"
    in_groups: ClassVar[bool] = True
    pairs_rows: ClassVar[bool] = True

    beta: float = 1.0

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"beta (--mix-beta) {self.beta} must be above 0")

    def read_ahead(self, rows: Rows, rng: RowRng) -> Rows:
        """Return no rows: partners are in the batch."""
        return NO_ROWS

    def plan(self, step: MixStep) -> CrossViewPlan:
        """Draw the step's share.

        Raises:
            ValueError: there are not two views of one size, a group is odd, or groups do not
                divide the rows.
        """
        sizes = [view.size for view in step.views]
        if len(sizes) != 2 or sizes[0] != sizes[1]:
            raise ValueError(
                "--mix mixed-barlow blends two views, which must have one size, not the sides "
                f"{', '.join(map(str, sizes))} (--crop-sizes)"
            )
        check_pairs(len(step.rows), step.group)
        rng = np.random.default_rng([step.seed, step.step, STREAM])
        return CrossViewPlan(step.group, float(rng.beta(self.beta, self.beta)))


@dataclass(frozen=True, slots=True)
class CrossViewPlan(BatchOnly):
    """The share of one step."""

    group: int
    lam: float

    def tensors(self) -> Iterator[Tensor]:
        """Yield nothing: the plan is two numbers."""
        yield from ()

    def to(self, device: torch.device) -> CrossViewPlan:
        """Return the plan itself."""
        return self

    def apply(self, views: Views) -> tuple[Views, tuple[Mixed, ...]]:
        """Return the unchanged views, and the mixture of views 0 and 1."""
        x0, x1 = views[:2]
        partner = mirrored(len(x0), self.group, x0.device)
        image = torch.lerp(x1[partner], x0, self.lam)
        lam = x0.new_full((len(x0),), self.lam)
        return views, (Mixed(0, image, partner, lam, "cross", partner_view=1),)
