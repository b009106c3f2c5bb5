"""Random parameters and crops that the tests of both fast augmenters share."""

from dataclasses import replace

import numpy as np
import torch

from pipelines.augment.params import ViewParams, draw_params
from pipelines.rng import RowRng
from pipelines.views import View


def drawn_for(view: View, n: int = 48, number: int = 0, **fixed: object) -> ViewParams:
    """Draws of a view, some of them replaced by one value for all rows."""
    side = np.full(n, 300, np.int32)
    drawn = draw_params(view, number, RowRng(5, 1), np.arange(n), side, side)
    for name, value in fixed.items():
        old = getattr(drawn, name)
        new = np.broadcast_to(np.asarray(value, old.dtype), old.shape).copy()
        drawn = replace(drawn, **{name: new})
    return drawn


def noise(n: int, size: int) -> torch.Tensor:
    """Random crops, (n, size, size, 3) uint8."""
    generator = torch.Generator().manual_seed(size)
    return torch.randint(0, 256, (n, size, size, 3), dtype=torch.uint8, generator=generator)
