"""ScaleMix and CropMix: a box of another view of the same image, pasted into the query view.

ScaleMix: Wang 2022, arXiv:2204.00613. CropMix: Han 2022, the same with one small and one large crop
(the code released with arXiv:2205.15955). No target changes and no weight enters the loss. All
random numbers are keyed by the row, so they do not depend on batch or world size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pipelines.batch import Mixed
from pipelines.mixtures.base import NO_ROWS, BatchOnly, LossKind, MixStep, Rows, Views, Window
from pipelines.mixtures.image_mixture import inside_of, region_boxes
from pipelines.rng import RowRng
from pipelines.system.transfer import to_device
from pipelines.views import View

STREAM = 1 << 18
"""The first stream, numbered like a view, of windows and their boxes; see ``pipelines.rng``."""
_SHARE, _DOWN, _ACROSS, _COUNT = range(4)


@dataclass(frozen=True)
class ScaleMix:
    """Paste a box of a second, independent view B of a row into its view A, at the same place.

    For each row l ~ U(0, 1). The box has the relative area ``1 - l`` round a uniform centre and is
    clipped to the image, as Un-Mix's.
    """

    loss: ClassVar[LossKind] = "label-free"
    in_groups: ClassVar[bool] = False
    pairs_rows: ClassVar[bool] = False

    views: tuple[int, ...] = (0,)
    """The views to change, each with its copies at other sides."""
    own: tuple[float, float] | None = None
    """Share of the image's area that A covers, instead of the view's own range."""
    pasted: tuple[float, float] | None = None
    """Share of the image's area that B covers, instead of the view's own range."""

    def recropped(self, views: Sequence[View], copies: Mapping[int, int]) -> tuple[View, ...]:
        """Return the views, those to change with the areas of A."""
        own = [copies.get(i, i) in self.views for i in range(len(views))]
        return tuple(
            _scaled(view, self.own if change else None)
            for view, change in zip(views, own, strict=True)
        )

    def read_ahead(self, rows: Rows, rng: RowRng) -> Rows:
        """Return no rows: B is cut from the row's own image."""
        return NO_ROWS

    def plan(self, step: MixStep) -> ScaleMixPlan:
        """Draw B and the boxes of each view to change; its copies have the same boxes."""
        windows, boxes = [], []
        for v in (i for i in range(len(step.views)) if step.copies.get(i, i) in self.views):
            view = _scaled(step.views[v], self.pasted)
            shown = replace(step, views=[view])
            params = shown.draw_params(0, step.rows, number=STREAM + 2 * v)
            windows.append(Window(v, view, params))
            stream = STREAM + 2 * step.copies.get(v, v) + 1
            u = step.rng.uniform(step.rows, stream, _COUNT)
            corners = region_boxes(view.size, u[:, _SHARE], u[:, _DOWN], u[:, _ACROSS])
            boxes.append(torch.from_numpy(corners).view(-1, 4, 1, 1, 1))
        return ScaleMixPlan(tuple(windows), tuple(boxes))


def _scaled(view: View, scale: tuple[float, float] | None) -> View:
    return view if scale is None else replace(view, scale=scale)


@dataclass(frozen=True, slots=True)
class ScaleMixPlan(BatchOnly):
    """A step's windows, and each row's box in the view that a window is pasted into."""

    windows: tuple[Window, ...]
    boxes: tuple[Tensor, ...]  # (n, 4, 1, 1, 1) int64 each: top, bottom, left, right

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors."""
        return iter(self.boxes)

    def to(self, device: torch.device) -> ScaleMixPlan:
        """Return the plan on ``device``; the host never waits."""
        return replace(self, boxes=tuple(to_device(box, device) for box in self.boxes))

    def apply(self, views: Views) -> tuple[Views, tuple[Mixed, ...]]:
        """Return the views without the windows that follow them, and no mixture for the loss."""
        count = len(views) - len(self.windows)
        made = list(views[:count])
        for window, box, pasted in zip(self.windows, self.boxes, views[count:], strict=True):
            inside = inside_of(box, *pasted.shape[2:])
            made[window.of] = torch.where(inside, pasted, made[window.of])
        return tuple(made), ()
