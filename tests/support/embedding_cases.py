"""Methods whose images are their embeddings, to compare their terms with loops over rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.methods import METHODS
from models.methods.base import Setup
from models.methods.build import build_method
from pipelines.batch import Batch, Mixed

N, D, K = 6, 5, 7
PARTNER = torch.tensor([2, 1, 0, 5, 4, 3])
LAM = torch.tensor([0.3, 0.3, 0.3, 0.9, 0.9, 0.9], dtype=torch.float64)
ONE_LAM = torch.full((N,), 0.3, dtype=torch.float64)
Array = np.ndarray


def rows(n: int, d: int, seed: int) -> Tensor:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x * (1 + torch.arange(d)) / 2 + 0.3


class Identity(nn.Module):
    """A backbone for which images are features: (n, d, 1, 1) -> (n, d)."""

    num_features = D

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class Shift(nn.Module):
    """Stands in for a head: what the loss does is what counts."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by


def method_on_rows(name: str, **options: Any) -> Any:
    """The method with nothing between images and embeddings.

    A predictor adds 0.1, DINO's teacher 0.2, so that no branch can stand in for another.
    """
    more = {"prototypes": K} if name == "dino" else {}
    config = METHODS[name].settings(dim=D, hidden=D, **more, **options)
    torch.manual_seed(0)
    method = build_method(
        name,
        config,
        Identity(),
        Setup(
            bn="sync",
            group_size=3,
            batch_size=N,
            seed=0,
            steps_per_epoch=4,
            num_views=2,
        ),
    ).double()
    method.head = nn.Identity()
    if name in ("simsiam", "moco-v3"):
        method.predictor = Shift(0.1)
    if name == "moco-v3":
        method.key_encoder = Identity()
    if name == "dino":
        method.teacher[0], method.teacher[1] = Identity(), Shift(0.2)
    return method


def batch_of(x0: Tensor, x1: Tensor, xm: Tensor | None, lam: Tensor = LAM, step: int = 2) -> Batch:
    def images(x: Tensor) -> Tensor:
        return x[:, :, None, None]

    place = torch.arange(N)
    mixed = () if xm is None else (Mixed(0, images(xm), PARTNER, lam),)
    return Batch((images(x0), images(x1)), place, place, place, seed=0, step=step, mixed=mixed)


def cos(u: Array, v: Array) -> float:
    return float(u @ v / np.sqrt(u @ u) / np.sqrt(v @ v))


def difference(
    loop: Callable[..., float], x: list[Tensor], which: int, place: tuple[int, int]
) -> float:
    """The central difference of a loop in one number of one input."""
    sides = []
    for sign in (1, -1):
        arrays = [v.numpy().copy() for v in x]
        arrays[which][place] += sign * 1e-5
        sides.append(loop(*arrays))
    return (sides[0] - sides[1]) / 2e-5
