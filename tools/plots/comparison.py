"""Scores of groups of runs, drawn: a point a seed, a bar the mean."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tools.runs.comparison import Difference, Group

Drawn = tuple[str, Group, Group | None, Difference | None]
"""Name, group, its base, and the difference from it."""
LEGEND = "point: one seed    bar: mean    right: difference from the base ± standard error"
NAME = 36
"""Characters of a group's name on a line."""
BASE, OTHER, WEAK = "#6e7781", "#0969da", "#9a6700"


def draw(rows: Sequence[Drawn], how: str, path: Path) -> None:
    """Write a picture: a line a group, its difference from its base beside it."""
    figure = Figure(figsize=(8.5, 1.4 + 0.36 * len(rows)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = {id(group): place for place, (_, group, _, _) in enumerate(rows)}
    for place, (_, group, base, found) in enumerate(rows):
        colour = OTHER if base else BASE
        values = [100 * value for value in group.values]
        axes.plot(values, [place] * len(values), "o", color=colour, ms=5, alpha=0.55, mew=0)
        mean = 100 * group.mean
        axes.plot([mean, mean], [place - 0.22, place + 0.22], color=colour, linewidth=2.2)
        if base:
            axes.plot([100 * base.mean] * 2, [places[id(base)], place], ":", color=BASE, lw=1)
        if found:
            colour = OTHER if found.resolved else WEAK
            right = axes.get_yaxis_transform()
            axes.text(1.02, place, told(found), transform=right, va="center", color=colour, size=9)
    axes.set_yticks(range(len(rows)), [textwrap.fill(name, NAME) for name, *_ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.margins(x=0.08)
    figure.supxlabel(textwrap.fill(how, 110), fontsize=8.5, x=0.01, ha="left")
    figure.suptitle(LEGEND, size=8.5, x=0.01, ha="left", color="0.35")
    axes.tick_params(labelsize=9)
    axes.grid(axis="x", alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def told(found: Difference) -> str:
    """Return a difference in points, with its standard error."""
    error = "" if found.error is None else f" ± {100 * found.error:.2f}"
    verdict = "" if found.resolved else "  unresolved"
    return f"{100 * found.value:+.2f}{error}{verdict}"
