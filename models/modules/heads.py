"""Networks on top of the backbone: projectors and predictors."""

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
    last_bias: bool = True,
    last_affine: bool = True,
    activation: Callable[[], nn.Module] = RELU,
) -> nn.Sequential:
    """Return linear layers ``sizes[0] -> sizes[1] -> ...`` with an activation between them.

    Args:
        sizes: widths, starting with the input's; two widths give one linear layer.
        norm: batch norm before each activation; those linear layers then have no bias.
        last_norm: batch norm after the last linear layer too.
        last_bias: biases in the last linear layer and in the norm after it.
        last_affine: weights and biases in the norm after the last layer; False implies no
            ``last_bias``.
        activation: creates the activation between two layers.
    """
    layers: list[nn.Module] = []
    for width, following in pairwise(sizes[:-1]):
        layers.append(nn.Linear(width, following, bias=not norm))
        if norm:
            layers.append(nn.BatchNorm1d(following))
        layers.append(activation())
    last_bias = last_bias and last_affine
    layers.append(nn.Linear(sizes[-2], sizes[-1], bias=last_bias))
    if last_norm:
        final = nn.BatchNorm1d(sizes[-1], affine=last_affine)
        if not last_bias:
            final.register_parameter("bias", None)
        layers.append(final)
    return nn.Sequential(*layers)


def projector(
    width: int, hidden: int, dim: int, *, norm: bool, last_bias: bool = True
) -> nn.Sequential:
    """Return the usual head: ``width -> hidden -> dim``."""
    return mlp(width, hidden, dim, norm=norm, last_bias=last_bias)


def predictor(
    dim: int, hidden: int, *, last_bias: bool = True, last_norm: bool = False
) -> nn.Sequential:
    """Return BYOL's predictor: ``dim -> hidden -> dim`` with batch norm. Grill 2020, 2006.07733.

    ``last_norm``: a batch norm without weights after the last layer, which then has no bias, as in
    MoCo v3's transformers. Chen 2021, 2104.02057, section 5.
    """
    return mlp(
        *(dim, hidden, dim),
        norm=True,
        last_norm=last_norm,
        last_bias=last_bias,
        last_affine=not last_norm,
    )


def init_truncated_normal(layer: nn.Module) -> None:
    """Initialize a linear layer as in DINO's released head: weights from N(0, .02), zero bias."""
    if isinstance(layer, nn.Linear):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
