"""Draw queries with their nearest images, and mark which are of the query's class."""

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
"""Sign and color of a neighbor: of the query's class (1), of another (0), unknown (-1)."""


@dataclass(frozen=True)
class NeighborRow:
    """A query and its k neighbors, nearest first."""

    query: int
    """Row of the query in its table."""
    index: NDArray
    """Rows of the neighbors in their table, (k,)."""
    similarity: NDArray
    """Cosines of the neighbors with the query, (k,)."""
    marks: NDArray
    """1 for the query's class, 0 for another, -1 if unknown, (k,)."""


def draw_neighbors(
    queries: Table,
    numbers: Sequence[int],
    bank: Table,
    rows: Sequence[NeighborRow],
    names: Sequence[str] | None,
) -> Figure:
    """Draw a line of images for each of ``rows``.

    ``numbers`` identify the queries without a class; ``names`` appear at the left of the lines.
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
    """Return the name of a row's class, or its number if unnamed; empty without a label."""
    label = int(table.label[row])
    return "" if label < 0 else table.class_name(label)
