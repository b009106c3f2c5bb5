"""Sampling by weight of several data sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.balance import Balance
from pipelines.sources.joined import Joined
from pipelines.sources.table import Table


def part_weights(table: Table, weights: Sequence[float]) -> Balance:
    """Return weights of rows by which each data set has its share of the batches.

    The rows of a data set share its weight evenly. No row is in a batch twice, so a data set of
    fewer rows than its share has all of them in every batch, and the others fill it.

    Args:
        table: the rows of several data sets.
        weights: a number of at least 0 for each data set, in their order.

    Raises:
        ValueError: the table is one data set, or has no row of one with a weight.
    """
    if not isinstance(table.source, Joined):
        raise ValueError("--data-weights are for several data sets, and --data names one")
    parts = table.source.parts
    rows = {part.place: part.rows for part in parts}
    if empty := [place for place, weight in enumerate(weights) if weight and not rows.get(place)]:
        raise ValueError(
            f"--data-weights: data set {empty[0] + 1} of --data has no training image, and the "
            f"weight {weights[empty[0]]:g}: give it the weight 0"
        )
    each = np.array([weights[part.place] / part.rows for part in parts])
    number, _ = table.source.find(np.arange(len(table)))
    return Balance(each[number], flag="--data-weights")
