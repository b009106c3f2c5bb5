"""Shared by all losses: full precision, unit rows, cosines, and the loss of a mixture."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pipelines.batch import Mixed

P = ParamSpec("P")
R = TypeVar("R")


def widen(x: Tensor) -> Tensor:
    """Return a floating-point tensor in float32 or better."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def full_precision(loss: Callable[P, R]) -> Callable[P, R]:
    """Turn autocast off inside ``loss`` and widen its half-precision arguments to float32."""

    def widened(x: Any) -> Any:
        return widen(x) if isinstance(x, Tensor) and x.is_floating_point() else x

    @wraps(loss)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(x.device.type for x in args if isinstance(x, Tensor))
        with torch.autocast("cpu" if device == "meta" else device, enabled=False):
            return loss(*map(widened, args), **{k: widened(v) for k, v in kwargs.items()})

    return wrapped


@full_precision
def unit(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Return the rows divided by their Euclidean lengths.

    >>> unit(torch.tensor([[3.0, 4.0]]))
    tensor([[0.6000, 0.8000]])
    """
    return F.normalize(x, dim=1)


@full_precision
def scores(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Return ``x[i] . y[j]``, the cosines of unit rows."""
    return x @ y.T


@full_precision
def cosine_gap(p: Float[Tensor, "n d"], t: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Return ``2 - 2 cos(p, t)``, from 0 to 4. Source: Grill 2020, 2006.07733, eq. 2.

    >>> cosine_gap(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[5.0, 0.0], [0.0, 5.0]]))
    tensor([0., 2.])
    """
    return 2 - 2 * (F.normalize(p, dim=1) * F.normalize(t, dim=1)).sum(1)


def on_mixture(
    pair: Callable[[Tensor, Tensor], Tensor],
    q: Float[Tensor, "n d"],
    k: Float[Tensor, "m d"],
    mixed: Mixed,
) -> Float[Tensor, " n"]:
    """Return ``lam pair(q, k) + (1 - lam) pair(q, k[partner])``, one value per row.

    Its mean equals ``lam L(q, k) + (1 - lam) L(reversed q, k)``, but the mixture is encoded once.
    Source: Shen 2022, 2003.05438.

    Args:
        pair: the loss of matching rows, with one value per row.
        q: embeddings of the mixture.
        k: clean keys. Row i belongs to row i of ``q``; CLIM appends further keys.
        mixed: the mixture, with ``partner`` and ``lam``.
    """
    own = pair(q, k[: len(q)])
    return mixed.lam * own + (1 - mixed.lam) * pair(q, k[mixed.partner])
