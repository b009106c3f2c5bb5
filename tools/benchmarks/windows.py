"""Draw the crop windows of a decoder as in training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.augment.params import ViewParams, draw_params
from pipelines.decoders import Crops
from pipelines.rng import RowRng
from pipelines.sources.table import Table
from pipelines.views import View


def draw_windows(
    table: Table, rows: NDArray[np.int64], views: Sequence[View], rng: RowRng
) -> tuple[list[ViewParams], list[Crops]]:
    """Return each view's random parameters for ``rows``, (n,), and its crop windows."""
    sides = table.height[rows], table.width[rows]
    drawn = [draw_params(view, i, rng, rows, *sides) for i, view in enumerate(views)]
    take = np.arange(len(rows))
    return drawn, [Crops(v.size, take, d.box) for v, d in zip(views, drawn, strict=True)]
