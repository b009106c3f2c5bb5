"""i-Mix: each row blended with a random row of its group. Lee 2021, arXiv:2010.08887.

Partners are a random permutation of the group, in which a row may be its own partner. ``imix``
blends whole images with a share for each row, keyed by the row. ``imix-cutmix`` draws one share a
step and pastes Un-Mix's box; the share is then measured. Shares are folded to ``max(lam, 1 -
lam)``, so that a row outweighs its partner. Each mixed view has draws of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from pipelines.batch import Mixed
from pipelines.mixtures.base import NO_ROWS, LossKind, MixStep, Rows
from pipelines.mixtures.per_view import PerViewPlan
from pipelines.mixtures.unmix import Box, generators, place
from pipelines.rng import RowRng
from pipelines.system.transfer import to_device

Images = Float[Tensor, "n c h w"]
STREAM = 1 << 24
"""Its random numbers have a stream of their own; of the row's, one for each view."""
_PARTNERS, _BOXES = 1, 2


@dataclass(frozen=True)
class IMix:
    """Blends by shares of single rows or, with ``cutmix``, boxes of one nominal share a step."""

    loss: ClassVar[LossKind] = "soft targets"
    in_groups: ClassVar[bool] = True
    pairs_rows: ClassVar[bool] = False

    cutmix: bool = False
    beta: float = 1.0
    """lam ~ Beta(beta, beta), before folding."""
    fold: bool = True
    per_group: bool = False
    """Each group draws a box of its own, keyed by (seed, step, group)."""

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"beta (--mix-beta) {self.beta} must be above 0")

    def read_ahead(self, rows: Rows, rng: RowRng) -> Rows:
        """Return no rows: partners are in the batch."""
        return NO_ROWS

    def plan(self, step: MixStep) -> PerViewPlan:
        """Draw the partners, shares and boxes of each mixed view; a copy has its original's.

        Raises:
            ValueError: groups do not divide the rows.
        """
        if len(step.rows) % step.group:
            raise ValueError(f"{len(step.rows)} rows do not make whole groups of {step.group}")
        return PerViewPlan(tuple(self._blend(step, view) for view in step.mixed))

    def _blend(self, step: MixStep, view: int) -> Blend:
        drawn = step.copies.get(view, view)
        partner = torch.from_numpy(_partners(step, drawn))
        if not self.cutmix:
            lam = torch.from_numpy(self._shares(step, drawn).astype(np.float32))
            return Blend(view, partner, lam)
        side, boxes, shares = step.views[view].size, [], []
        for rng in generators(step, per_group=self.per_group, stream=(STREAM, _BOXES, drawn)):
            nominal = float(self._folded(rng.beta(self.beta, self.beta, 1))[0])
            box, share = place(side, side, (False, nominal), rng)
            boxes.append(box)
            shares.append(share)
        lam = torch.tensor(shares).repeat_interleave(len(step.rows) // len(shares))
        return Blend(view, partner, lam, tuple(box for box in boxes if box is not None))

    def _shares(self, step: MixStep, view: int) -> NDArray[np.float64]:
        """Draw each row's share, (n,), by the row alone."""
        if self.beta == 1:
            return self._folded(step.rng.uniform(step.rows, STREAM + view, 1)[:, 0])
        keys = step.rng.bits(step.rows, STREAM + view, 1)[:, 0]
        drawn = [np.random.default_rng(int(key)).beta(self.beta, self.beta) for key in keys]
        return self._folded(np.array(drawn))

    def _folded(self, lam: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.maximum(lam, 1 - lam) if self.fold else lam


def _partners(step: MixStep, view: int) -> Rows:
    """Draw a permutation of each group, by (seed, step, group) and the view; (n,)."""
    rngs = generators(step, per_group=True, stream=(STREAM, _PARTNERS, view))
    orders = [rng.permutation(step.group) + i * step.group for i, rng in enumerate(rngs)]
    return np.concatenate(orders)


@dataclass(frozen=True, slots=True)
class Blend:
    """The mixture of one view: each row's partner and share, and where partners are pasted."""

    view: int
    partner: Int[Tensor, " n"]
    lam: Float[Tensor, " n"]
    boxes: tuple[Box, ...] = ()
    """A box for all rows, or one for each of equal parts; none: whole images are blended."""

    def tensors(self) -> Iterator[Tensor]:
        """Yield partners and shares."""
        yield from (self.partner, self.lam)

    def to(self, device: torch.device) -> Blend:
        """Return the blend on ``device``; the host never waits."""
        partner, lam = to_device(self.partner, device), to_device(self.lam, device)
        return replace(self, partner=partner, lam=lam)

    def of(self, images: Images) -> Mixed:
        """Return the mixture of the view's images."""
        others, lam = images[self.partner], self.lam.to(images.dtype)
        if not self.boxes:
            mixed = torch.lerp(others, images, lam[:, None, None, None])
            return Mixed(self.view, mixed, self.partner, lam, "imix")
        mixed = images.clone()
        rows = len(images) // len(self.boxes)
        for part, other, box in zip(mixed.split(rows), others.split(rows), self.boxes, strict=True):
            top, bottom, left, right = box
            part[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
        return Mixed(self.view, mixed, self.partner, lam, "imix")
