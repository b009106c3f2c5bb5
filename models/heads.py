"""Small networks on top of the backbone: projectors and predictors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

from torch import nn

RELU = partial(nn.ReLU, inplace=True)


def mlp(
    *sizes: int,
    norm: bool,
    last_norm: bool = False,
    last_affine: bool = True,
    activation: Callable[[], nn.Module] = RELU,
) -> nn.Sequential:
    """Return linear layers ``sizes[0] -> sizes[1] -> ...`` with an activation between them.

    Args:
        sizes: widths, the input's first; two give a single linear layer.
        norm: batch norm before each activation (those linear layers then have no bias).
        last_norm: batch norm after the last linear layer too.
        last_affine: whether the last linear layer has a bias, and that norm weights and a bias.
        activation: makes what lies between the layers, ReLU unless said.
    """
    layers: list[nn.Module] = []
    for width, following in pairwise(sizes[:-1]):
        layers.append(nn.Linear(width, following, bias=not norm))
        if norm:
            layers.append(nn.BatchNorm1d(following))
        layers.append(activation())
    layers.append(nn.Linear(sizes[-2], sizes[-1], bias=last_affine))
    if last_norm:
        layers.append(nn.BatchNorm1d(sizes[-1], affine=last_affine))
    return nn.Sequential(*layers)


def projector(width: int, hidden: int, dim: int, *, norm: bool) -> nn.Sequential:
    """Return the usual head: ``width -> hidden -> dim``."""
    return mlp(width, hidden, dim, norm=norm)


def predictor(dim: int, hidden: int) -> nn.Sequential:
    """Return BYOL's predictor: ``dim -> hidden -> dim`` with batch norm. Grill 2020, 2006.07733."""
    return mlp(dim, hidden, dim, norm=True)
