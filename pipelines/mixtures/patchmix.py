"""PatchMix: half of each row's patches come from the next row. Shen 2023, arXiv:2306.12243.

A view is cut into square patches, as a ViT does. One random half of them, the same for all rows of
a step, is taken from the next row of the group, at the same place. View 1 is the query and view 0
the key, each with patches of its own. As in the released settings, a mixture has two images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from pipelines.batch import Mixed
from pipelines.mixtures.base import NO_ROWS, LossKind, MixStep, Rows
from pipelines.mixtures.per_view import PerViewPlan, check_two_views
from pipelines.rng import RowRng
from pipelines.settings import PATCHMIX_ROWS
from pipelines.system.transfer import to_device

STREAM = (1 << 25) + (1 << 24)
"""End of the key of its random numbers, before the view."""


@dataclass(frozen=True)
class PatchMix:
    """A mask of patches for each of the first two views, one as query and one as key."""

    loss: ClassVar[LossKind] = "soft targets"
    in_groups: ClassVar[bool] = True
    pairs_rows: ClassVar[bool] = False

    patch: int = 0
    """Side of a patch in pixels; 0: ``patch_of`` of the view's side."""

    def read_ahead(self, rows: Rows, rng: RowRng) -> Rows:
        """Return no rows: partners are in the batch."""
        return NO_ROWS

    def plan(self, step: MixStep) -> PerViewPlan:
        """Draw the patches of both views.

        Raises:
            ValueError: groups do not divide the rows or have fewer than three, patches do not tile
                a view, or there is one view only.
        """
        check_two_views(step, "PatchMix")
        n, group = len(step.rows), step.group
        if n % group or group < PATCHMIX_ROWS:
            raise ValueError(
                f"PatchMix takes partners from groups of {PATCHMIX_ROWS} rows or more: "
                f"{n} rows in groups of {group}"
            )
        rows = np.arange(n)
        partner = torch.from_numpy(rows - rows % group + (rows % group + 1) % group)
        return PerViewPlan(tuple(self._patches(step, view, partner) for view in (1, 0)))

    def _patches(self, step: MixStep, view: int, partner: Tensor) -> Patches:
        side = step.views[view].size
        rng = np.random.default_rng([step.seed, step.step, STREAM, view])
        own = half_of_the_patches(side, self.patch or patch_of(side), rng)
        return Patches(view, partner, torch.from_numpy(own), float(own.mean()), key=view == 0)


def patch_of(side: int) -> int:
    """Return the side of a patch where no ViT sets it: the largest divisor up to a 14th.

    >>> [patch_of(side) for side in (224, 96, 64, 32)]
    [16, 6, 4, 2]
    """
    return max(patch for patch in range(1, max(side // 14, 1) + 1) if side % patch == 0)


def half_of_the_patches(side: int, patch: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw the pixels, (side, side), that a row keeps: half of the patches, or one more of them.

    Raises:
        ValueError: patches do not tile the view.
    """
    if side % patch:
        raise ValueError(
            f"patches of {patch} pixels (--patchmix.patch) do not tile a view of {side}"
        )
    grid = side // patch
    own = np.ones(grid * grid, np.bool_)
    own[rng.permutation(grid * grid)[: grid * grid // 2]] = False
    pixels: NDArray[np.bool_] = own.reshape(grid, grid).repeat(patch, 0).repeat(patch, 1)
    return pixels


@dataclass(frozen=True, slots=True)
class Patches:
    """The pixels that every row of a view keeps; the others show its partner."""

    view: int
    partner: Int[Tensor, " n"]
    own: Bool[Tensor, "h w"]
    lam: float
    key: bool

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors."""
        yield from (self.partner, self.own)

    def to(self, device: torch.device) -> Patches:
        """Return the mask on ``device``; the host never waits."""
        partner, own = to_device(self.partner, device), to_device(self.own, device)
        return replace(self, partner=partner, own=own)

    def of(self, images: Float[Tensor, "n c h w"]) -> Mixed:
        """Return the mixture of the view's images."""
        image = torch.where(self.own, images, images[self.partner])
        lam = images.new_full((len(images),), self.lam)
        return Mixed(self.view, image, self.partner, lam, "patchmix", key=self.key)
