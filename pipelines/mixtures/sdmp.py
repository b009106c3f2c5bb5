"""SDMP: the partner's whole view, shrunk into a box of each row. Ren 2022, arXiv:2206.07692.

Both views of a row are mixed with the same nominal share and boxes of their own: one mixture is the
query and the other the key. In each step one coin decides which view is which. Everything else is
drawn for each row by itself (``pipelines.rng``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from pipelines.batch import Mixed
from pipelines.mixtures.base import NO_ROWS, LossKind, MixStep, Rows
from pipelines.mixtures.per_view import PerViewPlan, check_two_views
from pipelines.mixtures.unmix import check_pairs, mirrored
from pipelines.rng import RowRng
from pipelines.system.transfer import to_device

STREAM = 1 << 25
"""The stream, numbered like a view, of the shares; the boxes of view v have ``STREAM + 1 + v``."""
LOWEST, RANGE = 0.1, 0.8
"""A row keeps a nominal share of 0.1 to 0.9."""


@dataclass(frozen=True)
class Sdmp:
    """ResizeMix of mirrored partners, with a share for each row, as query and as key."""

    loss: ClassVar[LossKind] = "soft targets"
    in_groups: ClassVar[bool] = True
    pairs_rows: ClassVar[bool] = True

    def read_ahead(self, rows: Rows, rng: RowRng) -> Rows:
        """Return no rows: partners are in the batch."""
        return NO_ROWS

    def plan(self, step: MixStep) -> PerViewPlan:
        """Draw which of the first two views is the query, and every row's share and boxes.

        Raises:
            ValueError: a group is odd, groups do not divide the rows, or there is one view only.
        """
        check_pairs(len(step.rows), step.group)
        check_two_views(step, "SDMP")
        query = int(np.random.default_rng([step.seed, step.step, STREAM]).integers(2))
        share = LOWEST + RANGE * step.rng.uniform(step.rows, STREAM, 1)[:, 0]
        pasted = (self._paste(step, view, share, key=view != query) for view in (query, 1 - query))
        return PerViewPlan(tuple(pasted))

    def _paste(self, step: MixStep, view: int, share: NDArray[np.float64], *, key: bool) -> Paste:
        side = step.views[view].size
        half = (side * np.sqrt(1 - share)).astype(np.int64) // 2
        place = step.rng.uniform(step.rows, STREAM + 1 + view, 2)
        corner = (place * (side - 2 * half)[:, None]).astype(np.int64)  # the box is always inside
        lam = 1 - (2 * half / side) ** 2
        partner = mirrored(len(share), step.group, torch.device("cpu"))
        box = torch.from_numpy(np.column_stack([corner, 2 * half]))
        return Paste(view, partner, torch.from_numpy(lam.astype(np.float32)), box, key)


@dataclass(frozen=True, slots=True)
class Paste:
    """The partners of a view, shrunk into a square box of each row."""

    view: int
    partner: Int[Tensor, " n"]
    lam: Float[Tensor, " n"]
    box: Int[Tensor, "n 3"]
    """Top, left and side of each box, in pixels."""
    key: bool

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors."""
        yield from (self.partner, self.lam, self.box)

    def to(self, device: torch.device) -> Paste:
        """Return the boxes on ``device``; the host never waits."""
        partner, lam, box = (to_device(tensor, device) for tensor in self.tensors())
        return replace(self, partner=partner, lam=lam, box=box)

    def of(self, images: Float[Tensor, "n c h w"]) -> Mixed:
        """Return the mixture of the view's images."""
        image = shrink_into(images, images[self.partner], self.box)
        return Mixed(
            self.view, image, self.partner, self.lam.to(images.dtype), "sdmp", key=self.key
        )


def shrink_into(
    images: Float[Tensor, "n c s s"], others: Float[Tensor, "n c s s"], box: Int[Tensor, "n 3"]
) -> Float[Tensor, "n c s s"]:
    """Return the images with each other one, resized bilinearly without antialias, in its box.

    Equals ``F.interpolate(other, side, mode="bilinear", align_corners=False)`` for each row.

    Args:
        images: square images.
        others: as many, of the same side.
        box: top, left and side of each box, in pixels.
    """
    dtype = torch.promote_types(images.dtype, torch.float32)
    centers = torch.arange(images.shape[-1], device=images.device, dtype=dtype) + 0.5
    top, left, side = box.to(dtype)[:, :, None].unbind(1)
    down, across = (2 * (centers - first) / side - 1 for first in (top, left))  # (n, s), in -1..1
    size = (len(images), images.shape[-1], images.shape[-1])
    grid = torch.stack([across[:, None].expand(size), down[:, :, None].expand(size)], 3)
    shrunk = F.grid_sample(others.to(dtype), grid, padding_mode="border", align_corners=False)
    inside = (down.abs() < 1)[:, None, :, None] & (across.abs() < 1)[:, None, None]
    return torch.where(inside, shrunk.to(images.dtype), images)
