"""The nearest neighbours of chosen images, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipelines.sources.table import Table
from tools.analysis.embedding import unit
from tools.analysis.loaded_run import Encoded
from tools.plots import style
from tools.plots.thumbnails import thumbnail

CHUNK = 1024
"""Queries compared at a time."""


@dataclass(frozen=True)
class Near:
    """The k nearest rows of a bank for each query, nearest first, and their cosines; (n, k)."""

    index: NDArray[np.int64]
    similarity: NDArray[np.float32]


def nearest(
    queries: NDArray[np.float32],
    bank: NDArray[np.float32],
    k: int,
    own: NDArray[np.int64] | None = None,
) -> Near:
    """Return each query's k most similar rows; ``own`` are the queries' rows in the bank, left out.

    Raises:
        ValueError: the bank has no k rows beside the query.
    """
    most = len(bank) - (own is not None)
    if not 1 <= k <= most:
        raise ValueError(f"--k {k} must be between 1 and the {most:,} images looked among")
    bank = unit(bank)
    index = np.empty((len(queries), k), np.int64)
    similarity = np.empty((len(queries), k), np.float32)
    for begin in range(0, len(queries), CHUNK):
        some = slice(begin, begin + CHUNK)
        cosine = unit(queries[some]) @ bank.T
        if own is not None:
            cosine[np.arange(len(cosine)), own[some]] = -np.inf
        index[some] = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
        similarity[some] = np.take_along_axis(cosine, index[some], axis=1)
    return Near(index, similarity)


def right(near: Near, queries: NDArray[np.int64], bank: NDArray[np.int64]) -> NDArray[np.int8]:
    """Return 1 where a neighbour has the query's label, 0 where another, -1 where unknown; (n, k).

    ``queries`` (n,) and ``bank`` (m,) are labels, -1 without.
    """
    theirs, own = bank[near.index], queries[:, None]
    same = (theirs == own).astype(np.int8)
    return np.where((theirs < 0) | (own < 0), np.int8(-1), same)


def class_name(table: Table, row: int) -> str:
    """Return the name of a row's class, or its number; empty without."""
    label = int(table.label[row])
    return "" if label < 0 else table.class_name(label)


def share_right(marks: NDArray[np.int8]) -> str:
    """Return in words how many of the neighbours are of their query's class."""
    known = marks[marks >= 0]
    if not len(known):
        return "no labels"
    return f"{known.mean():.1%} of the neighbours are of the query's class"


SIDE = 160
SHORT = 15
"""Letters of a class's name."""


def draw(
    names: Sequence[str],
    queries: Encoded,
    banks: Sequence[Table],
    nears: Sequence[Near],
) -> Figure:
    """Draw a row a query and run: the query, then its neighbours with class and similarity."""
    k, num = nears[0].index.shape[1], len(queries.rows)
    rows = num * len(names)
    figure = style.sheet(0.86 * (k + 1) + (0.9 if len(names) > 1 else 0.1), 1.08 * rows + 0.35)
    widths = [1.0, *([1.0] * k)]
    cells = figure.subplots(rows, k + 1, squeeze=False, gridspec_kw={"width_ratios": widths})
    known = (queries.table.label >= 0).any()
    key = "   ✓ the query's class   ✗ another" if known else ""
    figure.suptitle(
        f"query, then its nearest images with their cosine{key}", fontsize=8, x=0.01, ha="left"
    )
    for i in range(num):
        for which, (name, bank, near) in enumerate(zip(names, banks, nears, strict=True)):
            line = cells[i * len(names) + which]
            text = class_name(queries.table, i) or f"row {queries.rows[i]}"
            _cell(line[0], queries.table, i, short(text), style.INK, 0.0)
            if len(names) > 1:
                line[0].set_ylabel(
                    short(name), rotation=0, ha="right", va="center", fontsize=7.5, labelpad=6
                )
            marks = right(near, queries.table.label, bank.label)[i]
            for axes, row, cosine, mark in zip(
                line[1:], near.index[i], near.similarity[i], marks, strict=True
            ):
                sign = {1: "✓ ", 0: "✗ ", -1: ""}[int(mark)]
                colour = {1: style.RIGHT, 0: style.WRONG, -1: style.FAINT}[int(mark)]
                said = f"{sign}{short(class_name(bank, int(row)))}\n{cosine:.3f}"
                _cell(axes, bank, int(row), said, colour, 1.8)
    return figure


def short(text: str) -> str:
    """Return a name that fits below a picture."""
    return text if len(text) <= SHORT else text[: SHORT - 1] + "…"


def _cell(axes: Axes, table: Table, row: int, text: str, colour: str, frame: float) -> None:
    axes.imshow(thumbnail(table, row, SIDE), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(text.strip(), fontsize=6.3, color=colour, labelpad=2)
    axes.spines[:].set(color=colour, linewidth=frame, visible=frame > 0)
