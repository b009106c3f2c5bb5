"""Multi-resolution queries: queries at several sides, keys at the first. Li 2020, arXiv:2011.02697.

After its usual views, a batch then holds each query view again at every further side: all views of
the second side, then all of the third, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.settings import Reduce
from pipelines.batch import Batch, Mixed


@dataclass(frozen=True)
class QuerySizes:
    """Which views are queries, at how many sides, and how their losses are reduced.

    ``mean``: ``1/R sum_r L_r``. ``sum-half``: ``(L_1 + L_2 + ... + L_R) / 2``.
    """

    queries: tuple[int, ...] = (0, 1)
    count: int = 1
    reduce: Reduce = "mean"

    def copies(self, num_views: int) -> dict[int, int]:
        """Map each further view's place, after ``num_views`` others, to the view it repeats."""
        again = self.queries * (self.count - 1)
        return {num_views + i: query for i, query in enumerate(again)}

    def split(self, batch: Batch) -> list[tuple[list[Tensor], list[Mixed]]]:
        """Return, for each side, its query views and their mixtures."""
        num_views = len(batch.views) - len(self.queries) * (self.count - 1)
        copies = self.copies(num_views)
        places, width = [*self.queries, *copies], len(self.queries)
        sides = []
        for first in range(0, len(places), width):
            here = places[first : first + width]
            mixed = [m for m in batch.mixed if m.view in here]
            same = [replace(m, view=copies.get(m.view, m.view)) for m in mixed]
            sides.append(([batch.views[v] for v in here], same))
        return sides

    def join(self, terms: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the terms of all sides, reduced to one set."""
        if len(terms) == 1:
            return terms[0]
        share = 1 / len(terms) if self.reduce == "mean" else 1 / 2
        return {name: share * torch.stack([t[name] for t in terms]).sum(0) for name in terms[0]}
