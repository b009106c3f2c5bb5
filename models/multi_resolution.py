"""Multi-resolution queries: queries at several sides, keys at the first. Li 2020, arXiv:2011.02697.

After its usual views, a batch then holds each query view again at every further side: all views of
the second side, then all of the third, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from models.settings.base import QuerySizes
from pipelines.batch import Batch, Mixed


def split_sides(batch: Batch, sizes: QuerySizes) -> list[tuple[list[Tensor], list[Mixed]]]:
    """Return, for each side, its query views and their mixtures."""
    num_views = len(batch.views) - len(sizes.queries) * (sizes.count - 1)
    copies = sizes.copies(num_views)
    places, width = [*sizes.queries, *copies], len(sizes.queries)
    sides = []
    for first in range(0, len(places), width):
        here = places[first : first + width]
        mixed = [m for m in batch.mixed if m.view in here]
        same = [replace(m, view=copies.get(m.view, m.view)) for m in mixed]
        sides.append(([batch.views[v] for v in here], same))
    return sides


def join_sides(terms: Sequence[dict[str, Tensor]], sizes: QuerySizes) -> dict[str, Tensor]:
    """Return the terms of all sides, reduced to one set."""
    if len(terms) == 1:
        return terms[0]
    share = 1 / len(terms) if sizes.reduce == "mean" else 1 / 2
    return {name: share * torch.stack([t[name] for t in terms]).sum(0) for name in terms[0]}
