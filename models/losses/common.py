"""What all losses share: full precision, unit rows, cosines, and the loss of a mixture."""

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


def full_precision(loss: Callable[P, R]) -> Callable[P, R]:
    """Turn autocast off inside ``loss`` and widen half precision arguments to fp32."""

    def widen(x: Any) -> Any:
        if isinstance(x, Tensor) and x.is_floating_point():
            return x.to(torch.promote_types(x.dtype, torch.float32))
        return x

    @wraps(loss)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(x.device.type for x in args if isinstance(x, Tensor))
        with torch.autocast("cpu" if device == "meta" else device, enabled=False):
            return loss(*map(widen, args), **{k: widen(v) for k, v in kwargs.items()})

    return wrapped


@full_precision
def unit(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Return the rows divided by their length."""
    return F.normalize(x, dim=1)


@full_precision
def scores(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Return ``x[i] . y[j]``, the cosine of unit rows."""
    return x @ y.T


@full_precision
def cosine_gap(p: Float[Tensor, "n d"], t: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Return ``2 - 2 cos(p, t)``. Source: Grill 2020, 2006.07733, eq. 2."""
    return 2 - 2 * (F.normalize(p, dim=1) * F.normalize(t, dim=1)).sum(1)


def on_mixture(
    pair: Callable[[Tensor, Tensor], Tensor],
    q: Float[Tensor, "n d"],
    k: Float[Tensor, "m d"],
    mixed: Mixed,
) -> Float[Tensor, " n"]:
    """Return ``lam pair(q, k) + (1 - lam) pair(q, k[partner])`` for mixtures ``q``, (n,).

    Equals, in the mean, ``lam L(q, k) + (1 - lam) L(reversed q, k)`` without a second encoding.
    Source: Shen 2022, 2003.05438.
    """
    own = pair(q, k[: len(q)])
    return mixed.lam * own + (1 - mixed.lam) * pair(q, k[mixed.partner])
