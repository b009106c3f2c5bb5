"""MixMask: each row mixed with its partner by a random mask of cells. Vishniakov 2022, 2210.11456.

A grid of g x g cells is drawn for each view and step, and enlarged to the side of the view: a pixel
y belongs to cell ``floor(y g / side)``. A cell shows the row itself (1) or its partner (0). ``lam``
is the measured share of the row's own pixels, and the loss is Un-Mix's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pipelines.mixtures.unmix import Place, UnMix
from pipelines.settings import BLOCK_CELLS, MaskKind, MixMaskConfig

Cells = NDArray[np.bool_]
STREAM = 1 << 23
"""Masks have a stream of their own, so that Un-Mix's draws do not depend on them."""
ATTEMPTS = 10
"""Attempts to place a block; after the last, the mask keeps the blocks that it has."""


@dataclass(frozen=True)
class MixMask(UnMix):
    """One mask of each mixed view for all rows of a step, or for each group."""

    name: ClassVar[str] = "mask"
    stream: ClassVar[tuple[int, ...]] = (STREAM,)

    global_prob: float = 0.0
    config: MixMaskConfig = field(default_factory=MixMaskConfig)

    def __post_init__(self) -> None:
        self.config.check()

    def draw(self, rng: np.random.Generator) -> tuple[bool, float]:
        """Return the share of the row's cells; it is not random."""
        return False, self.config.share

    def place(
        self, height: int, width: int, share: tuple[bool, float], rng: np.random.Generator
    ) -> tuple[Place, float]:
        """Draw a view's cells; return the mask, (height, width), and its mean."""
        cells = CELLS[self.config.kind](self.config.grid, self.config.share, rng)
        mask = enlarge(cells, height, width)
        return mask, float(mask.mean())


def enlarge(cells: Cells, height: int, width: int) -> NDArray[np.float32]:
    """Return the mask of a view, (height, width): each pixel has the value of its cell.

    >>> enlarge(np.array([[True, False], [False, False]]), 2, 4)
    array([[1., 1., 0., 0.],
           [0., 0., 0., 0.]], dtype=float32)
    """
    down, across = (
        np.arange(n) * g // n for n, g in zip((height, width), cells.shape, strict=True)
    )
    mask: NDArray[np.float32] = cells[down[:, None], across].astype(np.float32)
    return mask


def discrete(grid: int, share: float, rng: np.random.Generator) -> Cells:
    """Draw each cell by itself, the row's own with probability ``share``; never all alike."""
    while True:
        cells = rng.random((grid, grid)) < share
        if 0 < cells.sum() < grid * grid:
            return cells


def blocks(grid: int, share: float, rng: np.random.Generator) -> Cells:
    """Draw rectangles until ``floor(share grid^2)`` cells show the row itself (BEiT's masking).

    A block has an area from 4 cells to as many as are missing, and an aspect ratio of 0.3 to 1/0.3,
    log-uniformly. It is smaller than the grid and adds at least one cell. A mask may end short.
    """
    cells = np.zeros((grid, grid), np.bool_)
    wanted = int(share * grid * grid)
    while (missing := wanted - int(cells.sum())) > 0:
        for _ in range(ATTEMPTS):
            area = BLOCK_CELLS + (missing - BLOCK_CELLS) * rng.random()
            aspect = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3)))
            h, w = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
            if h >= grid or w >= grid:
                continue
            top, left = rng.integers(grid - h + 1), rng.integers(grid - w + 1)
            block = cells[top : top + h, left : left + w]
            if 0 < block.size - int(block.sum()) <= missing:
                block[:] = True
                break
        else:
            return cells
    return cells


CELLS: dict[MaskKind, Callable[[int, float, np.random.Generator], Cells]] = {
    "block": blocks,
    "discrete": discrete,
}
