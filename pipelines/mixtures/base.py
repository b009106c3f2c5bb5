"""The contract of every mixture: extra rows in, mixed views out.

``Mixture.plan`` draws on the host everything that is random in a step, so that ``MixPlan.apply``
needs nothing from the device but arithmetic. A loader knows no more about mixtures than this.
"""

from __future__ import annotations

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
"""What a loss must do with a mixture: weigh two targets by ``lam``; take a view's second half as
the neighbors of its first, too; or nothing, because the targets stay as they are."""

NO_ROWS: Rows = np.zeros(0, np.int64)


@dataclass(frozen=True)
class MixStep:
    """What a mixture may look at in a step of one rank: keys of random numbers, never pixels."""

    seed: int
    step: int
    rng: RowRng
    """Random numbers of a row in the step's epoch."""
    rows: Rows
    """This rank's rows of the data set, (n,)."""
    positions: Rows
    """Their places in the global batch, (n,), consecutive."""
    group: int
    """Rows of a group: those that may be mixed with one another follow each other."""
    views: Sequence[View]
    """Every view at the side it has in this step."""
    mixed: Sequence[int]
    """The views to mix; label-free mixtures change all."""
    copies: Mapping[int, int]
    """Which views show another one again at another side: copy -> original."""
    table: Table
    """Sizes of all images."""

    @property
    def first_group(self) -> int:
        """The number of this rank's first group in the global batch."""
        return int(self.positions[0]) // self.group

    def draw_params(
        self, view: int, rows: Rows, *, keys: Rows | None = None, number: int | None = None
    ) -> ViewParams:
        """Draw what happens to ``rows`` in a view, (k,).

        Random numbers are keyed by ``keys`` (default: the rows themselves) and by ``number``
        (default: the view's own).
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
    """What happens to the views of one step; nothing random is left."""

    @property
    def extra(self) -> Rows:
        """Rows of the data set that every view shows after the batch's own, (k,)."""

    @property
    def params(self) -> Sequence[ViewParams]:
        """How each view shows ``extra``, one a view; empty without extra rows."""

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors."""

    def to(self, device: torch.device) -> MixPlan:
        """Return the plan on ``device``; the host never waits."""

    def apply(self, views: Views) -> tuple[Views, tuple[Mixed, ...]]:
        """Return the views a batch holds, and the mixtures made of them.

        Args:
            views: finished, (n + k, c, h, w) each; a label-free plan may overwrite them.
        """


@runtime_checkable
class Mixture(Protocol):
    """A kind of mixture and its settings."""

    @property
    def loss(self) -> LossKind:
        """What a loss must do with it."""

    @property
    def in_groups(self) -> bool:
        """Whether a row's result depends on other rows of its group, or its draws on the group."""

    @property
    def pairs_rows(self) -> bool:
        """Whether the rows of a group are paired, so that their number must be even."""

    def read_ahead(self, rows: Rows, rng: RowRng) -> Rows:
        """Return extra rows worth reading before the step; empty where too few matter."""

    def plan(self, step: MixStep) -> MixPlan:
        """Draw a step's mixture.

        Raises:
            ValueError: the groups offer no partner.
        """


def check_groups(mixture: Mixture | None, batch_size: int, groups: int, world_size: int) -> None:
    """Refuse groups that do not divide the batch, that ranks would cut, or that leave a row over.

    Raises:
        ValueError: naming the sizes to change.
    """
    if batch_size % groups or (mixture and mixture.in_groups and groups % world_size):
        raise ValueError(
            f"batch_size {batch_size}, groups {groups} (--mix-groups or --groups) and "
            f"{world_size} processes: the groups must divide the batch and the processes the groups"
        )
    if mixture and mixture.pairs_rows and (batch_size // groups) % 2:
        raise ValueError(
            f"batch_size {batch_size} in groups {groups} (--mix-groups or --groups) makes odd "
            "groups: rows are mixed in pairs"
        )
