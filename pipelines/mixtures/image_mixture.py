"""Label-free mixtures, which change the pixels and not the targets: IM, cutout, random erasing.

Shen 2020, arXiv:2003.05438v1 ("Image Mixture"): each image is mixed with a few others, globally and
by regions, before the loss; positives stay positives. Cutout (DeVries 2017, 1708.04552) and random
erasing (Zhong 2017, 1708.04896) are that paper's comparisons. All views of an image have the same
partner, share and box. All random numbers are keyed by the row (``pipelines.rng``) and do not
depend on batch or world size. Partners come from the row's group or from the whole data set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from pipelines.augment.params import ViewParams
from pipelines.batch import Mixed
from pipelines.mixtures.base import NO_ROWS, LossKind, MixStep, Rows, Views
from pipelines.rng import RowRng
from pipelines.settings import ImConfig, LabelFreeName
from pipelines.system.transfer import to_device

STREAM = 1 << 21
"""The first stream, numbered like a view, from which rounds draw; see ``pipelines.rng``."""
_FIRE, _PARTNER, _DOWN, _ACROSS, _KEY = range(5)


@dataclass(frozen=True, slots=True)
class Edit:
    """A blend of ``rows`` with ``partner``, or a box of ``partner`` or of a value pasted into them.

    Without a box, a row becomes ``share`` of itself and ``1 - share`` of its partner. With a box
    (top, bottom, left, right), the inside is replaced and the outside is multiplied by ``share``.
    """

    rows: Tensor  # (k,) int64
    partner: Tensor  # (k,) int64; empty: paste ``value``
    share: Tensor  # (k, 1, 1, 1)
    box: Tensor  # (k, 4, 1, 1, 1) int64; empty: the whole image
    value: Tensor  # (k, 1, 1, 1)

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors."""
        return (getattr(self, f.name) for f in fields(self))

    def to(self, device: torch.device) -> Edit:
        """Return the edit on ``device``; the host never waits."""
        return Edit(*(to_device(tensor, device) for tensor in self.tensors()))


@dataclass(frozen=True, slots=True)
class Edits:
    """The edits of one view: blends first, then pastes from the blended rows.

    ``extra`` are the rows of the data set that the view must hold after its own, as partners.
    """

    count: int
    extra: Rows
    blends: tuple[Edit, ...]
    pastes: tuple[Edit, ...]

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors."""
        for edit in (*self.blends, *self.pastes):
            yield from edit.tensors()

    def to(self, device: torch.device) -> Edits:
        """Return the edits on ``device``; the host never waits."""
        blends, pastes = (
            tuple(e.to(device) for e in edits) for edits in (self.blends, self.pastes)
        )
        return replace(self, blends=blends, pastes=pastes)

    def __call__(self, view: Float[Tensor, "n c h w"]) -> Float[Tensor, "m c h w"]:
        """Edit ``view`` in place; return its first ``count`` rows."""
        partners = [view[edit.partner] for edit in self.blends]
        for edit, other in zip(self.blends, partners, strict=True):
            view[edit.rows] = torch.lerp(other, view[edit.rows], edit.share)
        partners = [view[edit.partner] if len(edit.partner) else edit.value for edit in self.pastes]
        for edit, other in zip(self.pastes, partners, strict=True):
            inside = inside_of(edit.box, view.shape[2], view.shape[3])
            view[edit.rows] = torch.where(inside, other, view[edit.rows] * edit.share)
        return view[: self.count]


def inside_of(box: Tensor, height: int, width: int) -> Tensor:
    """Return the mask of each box, (k, 1, height, width)."""
    top, bottom, left, right = box.unbind(1)
    down = torch.arange(height, device=box.device)[:, None]
    across = torch.arange(width, device=box.device)
    return (down >= top) & (down < bottom) & (across >= left) & (across < right)


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """The edits of all views of a step; views of one side share them."""

    extra: Rows
    params: tuple[ViewParams, ...]
    edits: Mapping[int, Edits]
    """Side in pixels -> edits of views of that side."""

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors."""
        for edits in self.edits.values():
            yield from edits.tensors()

    def to(self, device: torch.device) -> ImagePlan:
        """Return the plan on ``device``; the host never waits."""
        return replace(self, edits={side: e.to(device) for side, e in self.edits.items()})

    def apply(self, views: Views) -> tuple[Views, tuple[Mixed, ...]]:
        """Edit the views in place; return the batch's own rows, and no mixture for the loss."""
        return tuple(self.edits[view.shape[-1]](view) for view in views), ()


@dataclass(frozen=True)
class ImageMixture:
    """A label-free mixture: edits augmented views before the loss."""

    loss: ClassVar[LossKind] = "label-free"
    pairs_rows: ClassVar[bool] = False

    name: LabelFreeName
    config: ImConfig = ImConfig()

    @property
    def in_groups(self) -> bool:
        """Whether a row depends on other rows of its group."""
        return self.name not in ("cutout", "erasing") and self.config.partner == "group"

    def read_ahead(self, rows: Rows, rng: RowRng) -> Rows:
        """Return no rows: few partners come from outside the batch."""
        return NO_ROWS

    def plan(self, step: MixStep) -> ImagePlan:
        """Draw a step's edits, once for each side.

        Raises:
            ValueError: partners come from the group, and it has one row only.
        """
        sides = {view.size for view in step.views}
        edits = {side: self.edits(step.rng, step.rows, step.group, len(step.table), side)
                 for side in sides}  # fmt: skip
        extra = next(iter(edits.values())).extra
        params = (step.draw_params(i, extra) for i in range(len(step.views)) if len(extra))
        return ImagePlan(extra, tuple(params), edits)

    def edits(self, rng: RowRng, rows: Rows, group: int, num_rows: int, side: int) -> Edits:
        """Draw the edits of a view of ``rows``, whole groups of ``group``, ``side`` pixels square.

        Raises:
            ValueError: partners come from the group, and it has one row only.
        """
        if self.name in ("cutout", "erasing"):
            return self._masks(rng, rows, side)
        config = self.config
        partners = _Partners(rows, group, num_rows, config.partner == "dataset")
        pastes: list[Edit] = []
        blends: list[Edit] = []
        if self.name != "im-global" and config.r_beta > 0:
            for turn in range(config.r_num):
                u, fired = _fired(rng, rows, config.g_num + turn, config.r_prob)
                lam = _beta(rng, rows[fired], config.g_num + turn, config.r_beta)
                box = region_boxes(side, lam, u[fired, _DOWN], u[fired, _ACROSS])
                keep = np.full(len(fired), config.r_pixel_decay if turn == 0 else 1.0)
                pastes += _edit(fired, partners.of(fired, u[fired, _PARTNER]), keep, box)
        if self.name != "im-region":
            mixed = partners.rows()  # the partners of regions are blended too
            for turn in range(config.g_num):
                u, fired = _fired(rng, mixed, turn, config.g_prob)
                lam = _beta(rng, mixed[fired], turn, config.g_alpha)
                blends += _edit(fired, partners.of(fired, u[fired, _PARTNER]), lam)
        return Edits(len(rows), partners.extra(), tuple(blends), tuple(pastes))

    def _masks(self, rng: RowRng, rows: Rows, side: int) -> Edits:
        u, fired = _fired(rng, rows, 0, self.config.mask_prob)
        no_rows, keep = np.zeros(0, np.int64), np.ones(len(fired))
        if self.name == "cutout":
            inside = self.config.mask_inside
            places = u[fired, _DOWN], u[fired, _ACROSS]
            box = cutout_boxes(side, self.config.mask_size, inside, *places)
            edits = _edit(fired, no_rows, keep, box, np.zeros(len(fired)))
        else:
            keys = rng.bits(rows[fired], STREAM, _KEY + 1)[:, _KEY]
            found = [erased(side, np.random.default_rng(int(key))) for key in keys]
            box = np.array([box for box, _ in found], np.int64).reshape(-1, 4)
            edits = _edit(fired, no_rows, keep, box, np.array([value for _, value in found]))
        return Edits(len(rows), no_rows, (), tuple(edits))


class _Partners:
    """Finds partners, and collects the extra rows that must be decoded for them."""

    def __init__(self, rows: Rows, group: int, num_rows: int, dataset: bool) -> None:
        if not dataset and group < 2:
            raise ValueError("--im.partner group needs groups of two rows or more; see --groups")
        self.own, self.group, self.num_rows, self.dataset = rows, group, num_rows, dataset
        self.more: list[Rows] = []

    def rows(self) -> Rows:
        """Return the view's own rows, then the extra rows so far."""
        return np.concatenate([self.own, *self.more])

    def extra(self) -> Rows:
        """Return the extra rows."""
        return self.rows()[len(self.own) :]

    def of(self, places: Rows, u: NDArray[np.float64]) -> Rows:
        """Return the places of partners for the rows at ``places``."""
        if self.dataset:
            first = len(self.rows())
            self.more.append((u * self.num_rows).astype(np.int64))
            return np.arange(first, first + len(places))
        within = places % self.group
        step = 1 + (u * (self.group - 1)).astype(np.int64)  # never the row itself
        return places - within + (within + step) % self.group


def _fired(rng: RowRng, rows: Rows, turn: int, prob: float) -> tuple[NDArray[np.float64], Rows]:
    """Return a round's random numbers for each row, and the places of the rows that take part."""
    u = rng.uniform(rows, STREAM + turn, _KEY)
    return u, np.flatnonzero(u[:, _FIRE] < prob)


def _beta(rng: RowRng, rows: Rows, turn: int, b: float) -> NDArray[np.float64]:
    """Draw from Beta(b, b) for each row."""
    keys = rng.bits(rows, STREAM + turn, _KEY + 1)[:, _KEY]
    return np.array([np.random.default_rng(int(key)).beta(b, b) for key in keys])


def _edit(
    rows: Rows,
    partner: Rows,
    share: NDArray[np.float64],
    box: Rows | None = None,
    value: NDArray[np.float64] | None = None,
) -> list[Edit]:
    """Return one edit in a list, or an empty list without rows."""
    if len(rows) == 0:
        return []

    def column(x: NDArray[np.float64] | None) -> Tensor:
        return torch.tensor([] if x is None else x, dtype=torch.float32).view(-1, 1, 1, 1)

    corners = np.zeros((0, 4), np.int64) if box is None else box
    index = torch.from_numpy(rows), torch.from_numpy(partner)
    boxes = torch.from_numpy(corners).view(-1, 4, 1, 1, 1)
    return [Edit(*index, column(share), boxes, column(value))]


def region_boxes(
    side: int, lam: NDArray[np.float64], down: NDArray[np.float64], across: NDArray[np.float64]
) -> Rows:
    """Return boxes of relative area ``1 - lam`` around uniform centres, clipped, (k, 4)."""
    half = (side * np.sqrt(1 - lam)).astype(np.int64) // 2
    return _clipped(side, half, half, (down * side).astype(int), (across * side).astype(int))


def cutout_boxes(
    side: int,
    mask: int,
    inside: bool,
    down: NDArray[np.float64],
    across: NDArray[np.float64],
) -> Rows:
    """Return squares of ``mask`` pixels around uniform centres, clipped to the image or inside."""
    half, end = mask // 2, side + (mask + 1) % 2
    low, high = (half, max(end - half, half + 1)) if inside else (0, end)
    centers = [(low + u * (high - low)).astype(np.int64) for u in (down, across)]
    return _clipped(side, half, mask - half, *centers)


def _clipped(side: int, before: Rows | int, after: Rows | int, down: Rows, across: Rows) -> Rows:
    edges = (down - before, down + after, across - before, across + after)
    return np.clip(np.stack(edges, axis=1), 0, side)


def erased(side: int, rng: np.random.Generator) -> tuple[tuple[int, int, int, int], float]:
    """Draw random erasing's box (empty after twenty attempts) and the value that fills it.

    The box has 2 to 40 % of the area, a ratio of height to width uniform in [0.3, 1 / 0.3], and
    lies strictly inside the image.
    """
    for _ in range(20):
        area, aspect = rng.uniform(0.02, 0.4) * side * side, rng.uniform(0.3, 1 / 0.3)
        height, width = int(np.sqrt(area * aspect)), int(np.sqrt(area / aspect))
        if height < side and width < side:
            top, left = rng.integers(side - height + 1), rng.integers(side - width + 1)
            return (int(top), int(top + height), int(left), int(left + width)), rng.random()
    return (0, 0, 0, 0), 0.0
