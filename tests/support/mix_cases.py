"""Apply a mixture to given views, without a loader."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pipelines.batch import Mixed
from pipelines.mixtures.base import MixPlan, MixStep, Mixture
from pipelines.rng import RowRng
from pipelines.sources.arrays import Arrays
from pipelines.sources.table import Table
from pipelines.views import View


def mix_views(
    mixture: Mixture, views: Sequence[torch.Tensor], mixed: Sequence[int] = (0,), **how: Any
) -> tuple[Mixed, ...]:
    """Mix square views as ``plan_views`` plans it."""
    return plan_views(mixture, views, mixed, **how).apply(tuple(views))[1]


def plan_views(
    mixture: Mixture,
    views: Sequence[torch.Tensor],
    mixed: Sequence[int] = (0,),
    *,
    rows: Sequence[int] | None = None,
    group: int | None = None,
    seed: int = 0,
    step: int = 0,
    first: int = 0,
    copies: Mapping[int, int] | None = None,
) -> MixPlan:
    """Plan to mix square views of ``rows`` (default: as many as a view has) in groups (of all).

    ``first`` is the place of the first row in the global batch.
    """
    own = np.arange(len(views[0])) if rows is None else np.array(rows)
    sizes = np.ones(max(own) + 1, np.int32)
    images = Arrays("test", np.zeros((len(sizes), 1, 1, 3), np.uint8))
    return mixture.plan(
        MixStep(
            seed=seed,
            step=step,
            rng=RowRng(seed, 0),
            rows=own,
            positions=np.arange(first, first + len(own)),
            group=group or len(own),
            views=[View(view.shape[-1]) for view in views],
            mixed=mixed,
            copies=copies or {},
            table=Table(np.zeros(len(sizes), np.int64), sizes, sizes, images),
        )
    )
