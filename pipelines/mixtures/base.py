"""The contract of every mixture: extra rows in, mixed views out.

``Mixture.plan`` draws a step's random parameters on the host, so that ``MixPlan.apply`` never reads
a value back from the device. The loader depends on this contract only, not on any mixture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from pipelines.augment.params import ViewParams, draw_params
from pipelines.batch import Mixed
from pipelines.rng import RowRng
from pipelines.sources.table import Table
from pipelines.views import View

Rows = NDArray[np.int64]
Views = tuple[Float[Tensor, "_ c _h _w"], ...]
LossKind = Literal["soft targets", "neighbors", "label-free"]
"""The loss that a mixture needs: two targets weighted by ``lam``; the same, where the second half
of each view holds the neighbours of its first half; or the usual one, with unchanged targets."""

NO_ROWS: Rows = np.zeros(0, np.int64)


@dataclass(frozen=True)
class MixStep:
    """A mixture's input in a step of one rank: rows, views and random keys, but no pixels."""

    seed: int
    step: int
    rng: RowRng
    """Random numbers of the rows in the step's epoch."""
    rows: Rows
    """This rank's rows of the data set, (n,)."""
    positions: Rows
    """Their places in the global batch, (n,), consecutive."""
    group: int
    """Rows of a group; a group's rows are consecutive and may be mixed with one another."""
    views: Sequence[View]
    """All views at their sides in this step."""
    mixed: Sequence[int]
    """The views to mix; label-free mixtures change all."""
    copies: Mapping[int, int]
    """Copies of a view at another side: copy -> original."""
    table: Table
    """The data set, for the image sizes."""

    @property
    def first_group(self) -> int:
        """Index of this rank's first group in the global batch."""
        return int(self.positions[0]) // self.group

    def draw_params(
        self, view: int, rows: Rows, *, keys: Rows | None = None, number: int | None = None
    ) -> ViewParams:
        """Draw the augmentation parameters of ``rows``, (k,), in a view.

        The random numbers are keyed by ``keys`` (default: the rows) and by ``number`` (default:
        the view's index).
        """
        return draw_params(
            self.views[view],
            view if number is None else number,
            self.rng,
            rows if keys is None else keys,
            self.table.height[rows],
            self.table.width[rows],
        )


@runtime_checkable
class MixPlan(Protocol):
    """The mixtures of one step, with all random parameters drawn."""

    @property
    def extra(self) -> Rows:
        """Rows of the data set that every view shows after the batch's rows, (k,)."""

    @property
    def params(self) -> Sequence[ViewParams]:
        """Augmentation parameters of ``extra``, one for each view; empty without extra rows."""

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors."""

    def to(self, device: torch.device) -> MixPlan:
        """Return the plan on ``device``; the host never waits."""

    def apply(self, views: Views) -> tuple[Views, tuple[Mixed, ...]]:
        """Return the views of the batch and the mixtures made from them.

        Args:
            views: augmented views, (n + k, c, h, w) each; a label-free plan may overwrite them.
                The windows of a ``WindowPlan`` follow, (n, c, h, w) each, and are not returned.
        """


class BatchOnly:
    """The part of a plan that needs no rows besides the batch's; partners are in the batch."""

    __slots__ = ()

    @property
    def extra(self) -> Rows:
        """No rows."""
        return NO_ROWS

    @property
    def params(self) -> tuple[ViewParams, ...]:
        """Empty: there are no extra rows."""
        return ()


@dataclass(frozen=True)
class Window:
    """A further random view of the batch's rows that a mixture uses up: no view of the batch.

    It is cut from the same decoded image as the views, and augmented by draws of its own. The views
    as they were before stay in ``Batch.plain``, so ``apply`` must not overwrite them.
    """

    of: int
    """The view that it is pasted into."""
    view: View
    params: ViewParams
    """Augmentation parameters of the rows, (n,)."""


@runtime_checkable
class WindowPlan(MixPlan, Protocol):
    """A plan that needs further windows of the batch's rows."""

    @property
    def windows(self) -> tuple[Window, ...]:
        """The windows, in the order in which ``apply`` takes them after the views."""


def windows_of(plan: MixPlan | None) -> tuple[Window, ...]:
    """Return the windows that a plan needs; most need none."""
    return plan.windows if isinstance(plan, WindowPlan) else ()


@runtime_checkable
class Recropping(Protocol):
    """A mixture that has its views cropped at other areas than the run's."""

    def recropped(self, views: Sequence[View], copies: Mapping[int, int]) -> tuple[View, ...]:
        """Return all views as they are to be drawn; ``copies`` as in ``MixStep``."""


@runtime_checkable
class Mixture(Protocol):
    """A kind of mixture and its settings."""

    @property
    def loss(self) -> LossKind:
        """The kind of loss that the mixture needs."""

    @property
    def in_groups(self) -> bool:
        """Whether a row's result depends on its group: on other rows, or on the group's index."""

    @property
    def pairs_rows(self) -> bool:
        """Whether a group's rows are mixed in pairs, so that their number must be even."""

    def read_ahead(self, rows: Rows, rng: RowRng) -> Rows:
        """Return the extra rows to read ahead of a step; empty if there are hardly any."""

    def plan(self, step: MixStep) -> MixPlan:
        """Draw a step's mixture.

        Raises:
            ValueError: the rows of a group cannot be partners.
        """


def check_groups(mixture: Mixture | None, batch_size: int, groups: int, world_size: int) -> None:
    """Refuse groups that do not divide the batch, span ranks, or are odd for a paired mixture.

    Raises:
        ValueError: the groups are refused; the text names the flags.
    """
    named = f"batch_size {batch_size} (--batch-size), groups {groups} (--mix-groups or --groups)"
    if mixture and mixture.in_groups and groups % world_size:
        raise ValueError(
            f"{named}: {world_size} processes cannot share the groups out; their number must be a "
            f"multiple of {world_size}"
        )
    unit = groups * (2 if mixture and mixture.pairs_rows else 1)
    if batch_size % unit:
        step = math.lcm(unit, world_size)
        below = batch_size - batch_size % step
        sizes = f"{below} or {below + step}" if below else f"{step}"
        paired = ", in groups of an even size, as rows are mixed in pairs"
        raise ValueError(
            f"{named}: batch_size must be divisible by the number of groups"
            f"{paired if unit > groups else ''}; {sizes} would fit"
        )
