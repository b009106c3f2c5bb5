"""Queries with their nearest images, right and wrong ones marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipelines.sources.table import Table
from tools.plots import style
from tools.plots.image_grid import SIDE, Cell, draw_image_grid, short
from tools.plots.thumbnails import thumbnail

SIGNS = {1: ("✓ ", style.RIGHT), 0: ("✗ ", style.WRONG), -1: ("", style.FAINT)}
"""How a neighbor of the query's class, of another and of an unknown one is marked."""


@dataclass(frozen=True)
class NeighborRow:
    """A query and its k neighbors, nearest first."""

    query: int
    """Row of the query in its table."""
    index: NDArray
    """Rows of the neighbors in theirs, (k,)."""
    similarity: NDArray
    """Their cosines with the query, (k,)."""
    marks: NDArray
    """1 where the class is the query's, 0 where it is another, -1 where unknown, (k,)."""


def draw_neighbors(
    queries: Table,
    numbers: Sequence[int],
    bank: Table,
    rows: Sequence[NeighborRow],
    names: Sequence[str] | None,
) -> Figure:
    """Draw a row for each of ``rows``; ``numbers`` name the queries that have no class.

    ``names`` stand at the left of the rows.
    """
    has_labels = (queries.label >= 0).any()
    key = "   ✓ the query's class   ✗ another" if has_labels else ""
    return draw_image_grid(
        [neighbor_cells(queries, numbers, bank, row) for row in rows],
        f"query, then its nearest images with their cosine{key}",
        names,
    )


def neighbor_cells(
    queries: Table, numbers: Sequence[int], bank: Table, row: NeighborRow
) -> list[Cell]:
    """Return the images of a query and its neighbors."""
    name = class_name(queries, row.query) or f"row {numbers[row.query]}"
    cells = [Cell(thumbnail(queries, row.query, SIDE), short(name), framed=False)]
    for near, cosine, mark in zip(row.index, row.similarity, row.marks, strict=True):
        sign, color = SIGNS[int(mark)]
        text = f"{sign}{short(class_name(bank, int(near)))}\n{cosine:.3f}"
        cells.append(Cell(thumbnail(bank, int(near), SIDE), text.strip(), color))
    return cells


def class_name(table: Table, row: int) -> str:
    """Return the name of a row's class, or its number; empty without a label."""
    label = int(table.label[row])
    return "" if label < 0 else table.class_name(label)
