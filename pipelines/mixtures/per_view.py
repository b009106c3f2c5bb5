"""Plans whose mixtures are one for each mixed view, without extra rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pipelines.augment.params import ViewParams
from pipelines.batch import Mixed
from pipelines.mixtures.base import NO_ROWS, Rows, Views


@runtime_checkable
class ViewMixture(Protocol):
    """The mixture of one view, with all random numbers drawn."""

    @property
    def view(self) -> int:
        """Index of the view."""

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors."""

    def to(self, device: torch.device) -> ViewMixture:
        """Return the mixture on ``device``; the host never waits."""

    def of(self, images: Float[Tensor, "n c h w"]) -> Mixed:
        """Return the mixture of the view's images."""


@dataclass(frozen=True, slots=True)
class PerViewPlan:
    """The mixtures of one step."""

    mixtures: tuple[ViewMixture, ...]

    @property
    def extra(self) -> Rows:
        """No rows: partners are in the batch."""
        return NO_ROWS

    @property
    def params(self) -> tuple[ViewParams, ...]:
        """Empty: there are no extra rows."""
        return ()

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors."""
        for mixture in self.mixtures:
            yield from mixture.tensors()

    def to(self, device: torch.device) -> PerViewPlan:
        """Return the plan on ``device``; the host never waits."""
        return PerViewPlan(tuple(mixture.to(device) for mixture in self.mixtures))

    def apply(self, views: Views) -> tuple[Views, tuple[Mixed, ...]]:
        """Return the unchanged views, and the mixture of each mixed view."""
        return views, tuple(mixture.of(views[mixture.view]) for mixture in self.mixtures)
