"""Un-Mix's mixtures: each row with the row mirrored in its group. Shen 2022, arXiv:2003.05438.

``Mixture.__call__(view, rng)`` is pure: the view is left untouched and everything random comes
from ``rng``. ``lam[i]`` is the share of row i measured after clipping, never the one drawn.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from pipelines.batch import Mixed
from pipelines.settings import MixName, UnMixName
from pipelines.system.transfer import to_device

Images = Float[Tensor, "n c h w"]
Place = tuple[int, int, int, int] | NDArray[np.float32] | None
"""Where the partner is seen: in a box (top, bottom, left, right); where a mask (h, w), each pixel's
share of the row itself, is below 1; or everywhere alike."""


@dataclass(frozen=True)
class Mixture:
    """Mixup with probability ``global_prob``, else a pasted box; one draw for all rows given.

    Section 3 of the paper: a draw first decides the kind, then the share ~ Beta(beta, beta),
    which is not folded to its larger half; a box's share is replaced by its pixels'.
    """

    global_prob: float
    beta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.global_prob <= 1:
            raise ValueError(f"--mix-prob {self.global_prob} is not a probability")
        if not self.beta > 0:
            raise ValueError(f"--mix-beta {self.beta} must be above 0")

    def draw(self, rng: np.random.Generator) -> tuple[bool, float]:
        """Draw whether the mixture is global, and its nominal share."""
        is_global = rng.random() < self.global_prob
        return is_global, float(rng.beta(self.beta, self.beta))

    def place(
        self, height: int, width: int, share: tuple[bool, float], rng: np.random.Generator
    ) -> tuple[Place, float]:
        """Draw where a view shows the partner; return it and the share that is left of the row.

        What is drawn must not depend on the side: views at several sides draw from one state.
        """
        return place(height, width, share, rng)

    def __call__(
        self,
        view: Images,
        rng: np.random.Generator,
        *,
        number: int = 0,
        group: int | None = None,
        share: tuple[bool, float] | None = None,
    ) -> Mixed:
        """Mix the batch's view ``number`` within groups of ``group`` rows (default: all rows).

        ``share`` is an earlier ``draw``, so that several views agree on kind and nominal share.

        Raises:
            ValueError: a group is odd (its middle row would mix with itself) or does not divide.
        """
        where, lam = self.place(view.shape[2], view.shape[3], share or self.draw(rng), rng)
        return mixed_at(view, number, group or len(view), where, lam)


def place(
    height: int, width: int, share: tuple[bool, float], rng: np.random.Generator
) -> tuple[tuple[int, int, int, int] | None, float]:
    """Draw the box of a view, None for a global mixture; return it and the share it leaves."""
    is_global, lam = share
    if is_global:
        return None, lam
    top, bottom, left, right = region(height, width, lam, rng)
    return (top, bottom, left, right), 1 - (bottom - top) * (right - left) / (height * width)


def mixed_at(view: Images, number: int, group: int, where: Place, lam: float) -> Mixed:
    """Mix rows with their partners: in a box, by a mask, or everywhere at the share ``lam``."""
    partner = mirrored(len(view), group, view.device)
    if where is None:
        image = torch.lerp(view[partner], view, lam)
    elif isinstance(where, np.ndarray):
        mask = to_device(torch.from_numpy(where), view.device).to(view.dtype)
        image = torch.lerp(view[partner], view, mask)
    else:
        top, bottom, left, right = where
        image = view.clone()
        image[:, :, top:bottom, left:right] = view[partner, :, top:bottom, left:right]
    return Mixed(number, image, partner, view.new_full((len(view),), lam))


def mirrored(num_rows: int, group: int, device: torch.device) -> Tensor:
    """Return each row's partner, the row mirrored in its group of consecutive rows, (n,)."""
    if group % 2 or num_rows % group:
        raise ValueError(f"mixtures need whole, even groups: {num_rows} rows in groups of {group}")
    rows = torch.arange(num_rows, device=device)
    within = rows % group
    return rows - within + (group - 1 - within)


def region(
    height: int, width: int, lam: float, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw a box of relative area ``1 - lam``: ``top, bottom, left, right``, clipped to the image.

    The centre is uniform over the pixels, rows first; the unclipped sides are even.
    """
    edges = []
    for extent in (height, width):
        half = int(extent * np.sqrt(1 - lam)) // 2
        centre = int(rng.integers(extent))
        edges += [max(centre - half, 0), min(centre + half, extent)]
    return edges[0], edges[1], edges[2], edges[3]


def mix_views(
    mixture: Mixture,
    views: Sequence[Float[Tensor, "n c _h _w"]],
    which: Sequence[int],
    *,
    seed: int,
    step: int,
    group: int,
    first_group: int | None,
    chained: bool = False,
    copies: Mapping[int, int] = MappingProxyType({}),
) -> tuple[Mixed, ...]:
    """Mix the views ``which``; kind and nominal share are common to them, boxes are not.

    One draw serves the whole global batch, keyed by (seed, step); with ``first_group`` (the
    number of this rank's first group) each group draws its own, keyed by (seed, step, group).
    ``chained`` draws each box from the share that the box before it left, as the released SwAV
    did: later views are mixed less and less. ``copies`` says of which view among ``which`` another
    one is the same at another side: it gets the same box, scaled.
    """
    if first_group is None:
        rng = np.random.default_rng([seed, step])
        return _mix_rows(mixture, views, which, rng, group, chained, copies)
    parts = []
    for start in range(0, len(views[which[0]]), group):
        rng = np.random.default_rng([seed, step, first_group + start // group])
        rows = [view[start : start + group] for view in views]
        parts.append(_mix_rows(mixture, rows, which, rng, group, chained, copies))
    return tuple(_join(pieces, group) for pieces in zip(*parts, strict=True))


def _mix_rows(
    mixture: Mixture,
    views: Sequence[Float[Tensor, "n c _h _w"]],
    which: Sequence[int],
    rng: np.random.Generator,
    group: int,
    chained: bool,
    copies: Mapping[int, int],
) -> tuple[Mixed, ...]:
    share = mixture.draw(rng)
    mixed = []
    before: dict[int, np.random.Generator] = {}
    for v in which:
        if v not in copies:
            before[v] = copy.deepcopy(rng)
        drawing = copy.deepcopy(before[copies[v]]) if v in copies else rng
        where, lam = mixture.place(views[v].shape[2], views[v].shape[3], share, drawing)
        mixed.append(mixed_at(views[v], v, group, where, lam))
        if chained:
            share = (share[0], lam)
    return tuple(mixed)


def _join(pieces: Sequence[Mixed], group: int) -> Mixed:
    return Mixed(
        pieces[0].view,
        torch.cat([piece.image for piece in pieces]),
        torch.cat([piece.partner + i * group for i, piece in enumerate(pieces)]),
        torch.cat([piece.lam for piece in pieces]),
    )


UN_MIX: dict[UnMixName, Callable[[float, float], Mixture]] = {
    "global": lambda prob, beta: Mixture(1.0, beta),
    "region": lambda prob, beta: Mixture(0.0, beta),
    "unmix": lambda prob, beta: Mixture(prob, beta),
}
"""Name -> mixture of ``--mix-prob`` and ``--mix-beta``; the names are those of ``UN_MIX_NAMES``."""


def create_mixture(name: MixName, prob: float, beta: float) -> Mixture | None:
    """Return Un-Mix's mixture of that name; ``prob`` is the share of global steps in ``unmix``."""
    return UN_MIX[name](prob, beta) if name in UN_MIX else None
