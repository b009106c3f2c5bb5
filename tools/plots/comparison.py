"""Draw the scores of groups of runs: a point for each seed, a bar at the mean, the difference."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from tools.plots import style

LEGEND = "point: one seed    bar: mean    right: difference from the base ± standard error"
NAME_LENGTH = 36
"""Characters in a line of a group's name."""


@dataclass(frozen=True)
class ScoreRow:
    """A group of runs."""

    name: str
    values: Sequence[float]
    """Scores in percent, one for each seed."""
    base: int | None = None
    """Row of the group that it is compared with, if any."""
    difference: str = ""
    """The difference from the base, as text."""
    resolved: bool = False

    @property
    def mean(self) -> float:
        """Mean score over the seeds."""
        return sum(self.values) / len(self.values)


@style.styled
def draw_scores(rows: Sequence[ScoreRow], caption: str) -> Figure:
    """Draw a row for each group, with a dotted line at the mean of its base."""
    figure = style.sheet(8.5, 1.4 + 0.36 * len(rows))
    axes = figure.add_subplot()
    right = axes.get_yaxis_transform()
    for place, row in enumerate(rows):
        color = style.FAINT if row.base is None else style.COLORS[0]
        axes.plot(row.values, [place] * len(row.values), "o", color=color, ms=5, alpha=0.55, mew=0)
        axes.vlines(row.mean, place - 0.22, place + 0.22, color=color, linewidth=2.2)
        if row.base is not None:
            base = rows[row.base].mean
            axes.vlines(base, row.base, place, color=style.FAINT, linestyle=":", linewidth=1)
        color = style.COLORS[0] if row.resolved else style.FAINT
        axes.text(1.02, place, row.difference, transform=right, va="center", color=color)
    style.tidy(axes)
    style.name_rows(axes, [textwrap.fill(row.name, NAME_LENGTH) for row in rows])
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.08)
    figure.supxlabel(textwrap.fill(caption, 110), fontsize=8.5, x=0.01, ha="left")
    figure.suptitle(LEGEND, fontsize=8.5, x=0.01, ha="left", color=style.FAINT)
    return figure
