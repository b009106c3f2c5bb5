"""Draw curves: a panel describes them as data, and ``draw_panels`` makes the figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from tools.plots import style

FEW = 25
"""Largest number of points of a line whose points are marked."""


@dataclass(frozen=True)
class Series:
    """A curve of n points; points that are not finite are left out."""

    name: str
    """Text in the legend; an empty name is left out of it."""
    x: ArrayLike
    y: ArrayLike
    kind: Literal["line", "band", "reference", "points"] = "line"
    """Line style; a band shades the spread, a reference is a thin dashed line."""
    look: int | None = None
    """Number of its color and marker (default: its position in the panel)."""
    spread: ArrayLike | None = None
    """Lowest and highest value of each point, (n, 2), as an error bar or the band; all finite."""

    @property
    def points(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The finite points, x (m,) and y (m,)."""
        x, y = np.asarray(self.x, np.float64), np.asarray(self.y, np.float64)
        known = np.isfinite(y)
        return x[known], y[known]

    def thinned(self, most: int) -> Series:
        """Return at most ``most`` points, each the mean of a stretch of equal length."""
        x, y = self.points
        if len(x) <= most:
            return self
        parts = np.array_split(np.arange(len(x)), most)
        return replace(
            self, x=[x[part].mean() for part in parts], y=[y[part].mean() for part in parts]
        )


@dataclass(frozen=True)
class Panel:
    """Curves that share axes."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...] = ()
    low: float | None = None
    """Lower end of the vertical axis, unless a value lies below (default: the lowest value)."""
    high: float | None = None
    """Upper end of the vertical axis, unless a value lies above."""
    x_low: float | None = None
    """Lower end of the horizontal axis."""


@style.styled
def draw_panels(
    panels: Sequence[Panel],
    *,
    across: int = 3,
    size: tuple[float, float] = (4.0, 2.9),
    shared_legend: bool = False,
) -> Figure:
    """Draw panels of ``size`` inches, ``across`` in a row.

    With ``shared_legend`` the last panel's legend is drawn below the figure, for all panels.
    """
    across = max(min(across, len(panels)), 1)
    down = max(-(-len(panels) // across), 1)
    figure = style.sheet(size[0] * across, size[1] * down)
    for place, panel in enumerate(panels):
        axes = figure.add_subplot(down, across, place + 1)
        draw_panel(axes, panel)
        if not shared_legend and len(axes.get_legend_handles_labels()[1]) > 1:
            axes.legend(frameon=False)
    if shared_legend and panels:
        style.legend(figure, axes)
    return figure


def draw_panel(axes: Axes, panel: Panel) -> None:
    """Draw the curves of a panel and label its axes."""
    for place, series in enumerate(panel.series):
        draw_series(axes, series, place if series.look is None else series.look)
    style.tidy(axes, panel.x_label, panel.y_label, panel.title)
    if panel.x_low is not None:
        axes.set_xlim(left=panel.x_low)
    y = np.concatenate([series.points[1] for series in panel.series] or [np.empty(0)])
    if len(y):
        low, high = axes.get_ylim()
        begins = panel.low is not None and y.min() >= panel.low
        ends = panel.high is not None and y.max() <= panel.high
        axes.set_ylim(panel.low if begins else low, panel.high if ends else high)


def draw_series(axes: Axes, series: Series, look: int) -> None:
    """Draw one curve in the color and marker of this number."""
    color, marker = style.look(look)
    x, y = series.points
    label = series.name or None
    if series.spread is not None and series.kind == "band":
        axes.fill_between(x, *np.asarray(series.spread).T, color=color, alpha=0.2, linewidth=0)
    elif series.spread is not None:
        low, high = np.asarray(series.spread, np.float64).T
        errors = np.maximum([y - low, high - y], 0)
        axes.errorbar(x, y, yerr=errors, fmt="none", ecolor=color, capsize=3)
    if series.kind == "reference":
        axes.plot(x, y, color=color, linewidth=0.9, linestyle=style.DASHES, zorder=1, label=label)
    elif series.kind == "points":
        axes.plot(x, y, marker, color=color, ms=5, alpha=0.35, mew=0, label=label)
    else:
        few = marker if len(x) <= FEW else None
        axes.plot(x, y, color=color, linewidth=1.4, marker=few, ms=3.5, label=label)
