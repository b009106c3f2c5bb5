"""Several mixtures of one step: ``--mix unmix+mixmask``, ``--mix im+region``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipelines.augment.params import ViewParams
from pipelines.batch import Mixed
from pipelines.mixtures.base import (
    LossKind,
    MixPlan,
    MixStep,
    Mixture,
    Recropping,
    Rows,
    Views,
    Window,
    windows_of,
)
from pipelines.rng import RowRng
from pipelines.views import View


@dataclass(frozen=True)
class Sum:
    """Mixtures with a loss term each; a label-free one changes the views that the others mix."""

    parts: tuple[Mixture, ...]

    @property
    def loss(self) -> LossKind:
        """Soft targets, unless all leave the targets alone."""
        kinds = {part.loss for part in self.parts}
        return "soft targets" if "soft targets" in kinds else "label-free"

    @property
    def in_groups(self) -> bool:
        """Whether one of them depends on the groups."""
        return any(part.in_groups for part in self.parts)

    @property
    def pairs_rows(self) -> bool:
        """Whether one of them mixes rows in pairs."""
        return any(part.pairs_rows for part in self.parts)

    def read_ahead(self, rows: Rows, rng: RowRng) -> Rows:
        """Return the extra rows of all of them."""
        return np.concatenate([part.read_ahead(rows, rng) for part in self.parts])

    def recropped(self, views: Sequence[View], copies: Mapping[int, int]) -> tuple[View, ...]:
        """Return the views as the mixture draws them that chooses their crops."""
        for part in self.parts:
            views = part.recropped(views, copies) if isinstance(part, Recropping) else views
        return tuple(views)

    def plan(self, step: MixStep) -> SumPlan:
        """Draw every mixture by itself: each draws what it draws alone."""
        ordered = sorted(self.parts, key=lambda part: part.loss != "label-free")
        return SumPlan(tuple(part.plan(step) for part in ordered))


@dataclass(frozen=True, slots=True)
class SumPlan:
    """The plans of a step; the first may change the views, and alone has extra rows."""

    parts: tuple[MixPlan, ...]

    @property
    def extra(self) -> Rows:
        """The extra rows of the first."""
        return self.parts[0].extra

    @property
    def params(self) -> Sequence[ViewParams]:
        """The augmentation parameters of the extra rows."""
        return self.parts[0].params

    @property
    def windows(self) -> tuple[Window, ...]:
        """The windows of all, in their order."""
        return tuple(window for part in self.parts for window in windows_of(part))

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors."""
        for part in self.parts:
            yield from part.tensors()

    def to(self, device: torch.device) -> SumPlan:
        """Return the plan on ``device``; the host never waits."""
        return replace(self, parts=tuple(part.to(device) for part in self.parts))

    def apply(self, views: Views) -> tuple[Views, tuple[Mixed, ...]]:
        """Return the views after all of them, and all mixtures."""
        mixed: tuple[Mixed, ...] = ()
        first = len(views) - len(self.windows)
        views, windows = views[:first], iter(views[first:])
        for part in self.parts:
            own = tuple(next(windows) for _ in windows_of(part))
            views, more = part.apply((*views, *own))
            mixed += more
        return views, mixed
