"""Plans whose mixtures are one for each mixed view, without extra rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pipelines.batch import Mixed
from pipelines.mixtures.base import BatchOnly, MixStep, Views


def check_two_views(step: MixStep, mixture: str) -> None:
    """Refuse a run without a second view, for a mixture that is a query and a key.

    Raises:
        ValueError: there is one view only.
    """
    if len(step.views) < 2:
        raise ValueError(
            f"{mixture} mixes two views of an image, one as query and one as key, but there is one"
        )


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
class PerViewPlan(BatchOnly):
    """The mixtures of one step."""

    mixtures: tuple[ViewMixture, ...]

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
