"""Un-Mix: each row mixed with the row mirrored in its group. Shen 2022, arXiv:2003.05438.

Kind and share are drawn once a step, a box for each mixed view. ``lam[i]`` is the share of row i
measured after clipping, not the share drawn.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from pipelines.batch import Mixed
from pipelines.mixtures.base import NO_ROWS, BatchOnly, LossKind, MixStep, Rows, Views
from pipelines.rng import RowRng
from pipelines.system.transfer import to_device

Images = Float[Tensor, "n c h w"]
Box = tuple[int, int, int, int]
Place = Box | NDArray[np.float32] | None
"""Where the partner is mixed in: a box (top, bottom, left, right); a mask (h, w) with each pixel's
share of the row itself; or None, the whole image at one share."""


@dataclass(frozen=True)
class UnMix:
    """Mixup with probability ``global_prob``, else a pasted box; one draw for all rows of a step.

    Section 3 of the paper: first the kind is drawn, then lam ~ Beta(beta, beta), which is not
    folded to max(lam, 1 - lam). For a box, lam is replaced by the measured share of pixels.
    """

    loss: ClassVar[LossKind] = "soft targets"
    in_groups: ClassVar[bool] = True
    pairs_rows: ClassVar[bool] = True
    name: ClassVar[str] = ""
    """``Mixed.name`` of its mixtures."""
    stream: ClassVar[tuple[int, ...]] = ()
    """End of the key of its random numbers, after (seed, step) or (seed, step, group)."""

    global_prob: float
    beta: float = 1.0
    per_group: bool = False
    """Each group draws its own mixture, keyed by (seed, step, group) instead of (seed, step)."""
    chained: bool = False
    """Draw each view's box from the share measured in the view before, as the released SwAV does:
    later views are mixed less and less."""

    def __post_init__(self) -> None:
        if not 0 <= self.global_prob <= 1:
            raise ValueError(f"global_prob (--mix-prob) {self.global_prob} is not a probability")
        if not self.beta > 0:
            raise ValueError(f"beta (--mix-beta) {self.beta} must be above 0")

    def draw(self, rng: np.random.Generator) -> tuple[bool, float]:
        """Draw whether the mixture is global, and its nominal share."""
        is_global = rng.random() < self.global_prob
        return is_global, float(rng.beta(self.beta, self.beta))

    def place(
        self, height: int, width: int, share: tuple[bool, float], rng: np.random.Generator
    ) -> tuple[Place, float]:
        """Draw where a view shows the partner; return the place and the row's remaining share.

        The draws must not depend on the side: copies at other sides draw from the same state.
        """
        return place(height, width, share, rng)

    def read_ahead(self, rows: Rows, rng: RowRng) -> Rows:
        """Return no rows: partners are in the batch."""
        return NO_ROWS

    def plan(self, step: MixStep) -> UnMixPlan:
        """Draw kind and nominal share, common to all mixed views, and a place for each view.

        Raises:
            ValueError: a group is odd (its middle row would be mixed with itself), or groups do
                not divide the rows.
        """
        check_pairs(len(step.rows), step.group)
        rngs = generators(step, per_group=self.per_group, stream=self.stream)
        drawn = [self._places(step, rng) for rng in rngs]
        places = (tuple(each) for each in zip(*drawn, strict=True))
        return UnMixPlan(step.group, tuple(zip(step.mixed, places, strict=True)), self.name)

    def _places(self, step: MixStep, rng: np.random.Generator) -> list[Placed]:
        """Draw the place of each mixed view; a copy at another side has its original's place."""
        share = self.draw(rng)
        placed = []
        before: dict[int, np.random.Generator] = {}
        for v in step.mixed:
            if v not in step.copies:
                before[v] = copy.deepcopy(rng)
            drawing = copy.deepcopy(before[step.copies[v]]) if v in step.copies else rng
            side = step.views[v].size
            where, lam = self.place(side, side, share, drawing)
            placed.append(Placed.of(where, lam))
            if self.chained:
                share = (share[0], lam)
        return placed


def generators(
    step: MixStep, *, per_group: bool, stream: tuple[int, ...] = ()
) -> list[np.random.Generator]:
    """Return the generator of the whole batch, or of each of this rank's groups."""
    if not per_group:
        return [np.random.default_rng([step.seed, step.step, *stream])]
    count = len(step.rows) // step.group
    numbers = range(step.first_group, step.first_group + count)
    return [np.random.default_rng([step.seed, step.step, n, *stream]) for n in numbers]


@dataclass(frozen=True, slots=True)
class Placed:
    """Where the partner is mixed in, a mask as a tensor, and the row's remaining share."""

    where: Box | Tensor | None
    lam: float

    @classmethod
    def of(cls, where: Place, lam: float) -> Placed:
        """Convert a drawn place, a mask to a tensor."""
        return cls(torch.from_numpy(where) if isinstance(where, np.ndarray) else where, lam)

    def to(self, device: torch.device) -> Placed:
        """Return the place on ``device``; the host never waits."""
        if isinstance(self.where, Tensor):
            return replace(self, where=to_device(self.where, device))
        return self


@dataclass(frozen=True, slots=True)
class UnMixPlan(BatchOnly):
    """Each mixed view's places: one for all rows, or one for each group of ``group`` rows."""

    group: int
    places: tuple[tuple[int, tuple[Placed, ...]], ...]
    name: str = ""
    """``Mixed.name`` of the mixtures."""

    def tensors(self) -> Iterator[Tensor]:
        """Yield the masks."""
        for _, placed in self.places:
            yield from (p.where for p in placed if isinstance(p.where, Tensor))

    def to(self, device: torch.device) -> UnMixPlan:
        """Return the plan on ``device``; the host never waits."""
        moved = ((v, tuple(p.to(device) for p in placed)) for v, placed in self.places)
        return replace(self, places=tuple(moved))

    def apply(self, views: Views) -> tuple[Views, tuple[Mixed, ...]]:
        """Return the unchanged views, and the mixture of each mixed view."""
        return views, tuple(self._mix(views[v], v, placed) for v, placed in self.places)

    def _mix(self, view: Images, number: int, placed: tuple[Placed, ...]) -> Mixed:
        if len(placed) == 1:
            return Mixed(number, *mix_rows(view, self.group, placed[0]), self.name)
        parts = zip(view.split(self.group), placed, strict=True)
        pieces = [mix_rows(rows, self.group, where) for rows, where in parts]
        images, partners, lams = zip(*pieces, strict=True)
        places = [partner + i * self.group for i, partner in enumerate(partners)]
        return Mixed(number, torch.cat(images), torch.cat(places), torch.cat(lams), self.name)


def place(
    height: int, width: int, share: tuple[bool, float], rng: np.random.Generator
) -> tuple[Box | None, float]:
    """Draw a view's box, None for a global mixture; return it and the row's remaining share."""
    is_global, lam = share
    if is_global:
        return None, lam
    top, bottom, left, right = region(height, width, lam, rng)
    return (top, bottom, left, right), 1 - (bottom - top) * (right - left) / (height * width)


def mix_rows(view: Images, group: int, placed: Placed) -> tuple[Images, Tensor, Tensor]:
    """Mix rows with their partners: in a box, by a mask, or as a whole at one share.

    Returns:
        The mixtures, the partners (n,) and the rows' shares (n,).
    """
    partner = mirrored(len(view), group, view.device)
    where, lam = placed.where, placed.lam
    if where is None:
        image = torch.lerp(view[partner], view, lam)
    elif isinstance(where, Tensor):
        image = torch.lerp(view[partner], view, where.to(view.dtype))
    else:
        top, bottom, left, right = where
        image = view.clone()
        image[:, :, top:bottom, left:right] = view[partner, :, top:bottom, left:right]
    return image, partner, view.new_full((len(view),), lam)


def check_pairs(num_rows: int, group: int) -> None:
    """Raise ``ValueError`` where rows do not make whole groups of pairs."""
    if group % 2 or num_rows % group:
        raise ValueError(f"mixtures need whole, even groups: {num_rows} rows in groups of {group}")


def mirrored(num_rows: int, group: int, device: torch.device) -> Tensor:
    """Return each row's partner, the row mirrored in its group of consecutive rows, (n,)."""
    check_pairs(num_rows, group)
    rows = torch.arange(num_rows, device=device)
    within = rows % group
    return rows - within + (group - 1 - within)


def region(height: int, width: int, lam: float, rng: np.random.Generator) -> Box:
    """Draw a box of relative area ``1 - lam``: ``top, bottom, left, right``, clipped to the image.

    The centre is uniform over the pixels, rows first; the unclipped sides are even.
    """
    edges = []
    for extent in (height, width):
        half = int(extent * np.sqrt(1 - lam)) // 2
        center = int(rng.integers(extent))
        edges += [max(center - half, 0), min(center + half, extent)]
    return edges[0], edges[1], edges[2], edges[3]


UN_MIX: dict[str, Callable[[float, float], UnMix]] = {
    "global": lambda prob, beta: UnMix(1.0, beta),
    "region": lambda prob, beta: UnMix(0.0, beta),
    "unmix": lambda prob, beta: UnMix(prob, beta),
}
"""Name -> mixture of ``--mix-prob`` and ``--mix-beta``."""
