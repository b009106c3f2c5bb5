"""Maps of images in the plane, colored by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipelines.sources.table import Table
from tools.plots import style


def shown_classes(label: NDArray[np.int64]) -> list[int]:
    """Return the classes with their own color: the most frequent ones, in ascending order."""
    classes, counts = np.unique(label[label >= 0], return_counts=True)
    most = np.argsort(-counts, kind="stable")[: style.NUM_LOOKS]
    return sorted(classes[most].tolist())


@style.styled
def draw_maps(
    table: Table, maps: Sequence[NDArray[np.float32]], names: Sequence[str], caption: str
) -> Figure:
    """Draw a panel for each map (n, 2) of the images of ``table``."""
    classes = shown_classes(table.label)
    across = min(len(maps), 3)
    down = -(-len(maps) // across)
    side = 5.0 if across == 1 else 3.5
    legend_rows = 1 + len(classes) // 4
    figure = style.sheet(side * across, (side + 0.1) * down + 0.3 + 0.19 * legend_rows)
    for place, (points, name) in enumerate(zip(maps, names, strict=True)):
        axes = figure.add_subplot(down, across, place + 1)
        _draw_points(axes, points, table, classes)
        axes.set_title(name, loc="left")
    style.legend(figure, figure.axes[0], markerscale=1.8, columnspacing=1.2, handletextpad=0.2)
    if caption:
        figure.suptitle(caption, fontsize=7.5, color=style.FAINT, x=0.01, ha="left")
    return figure


def _draw_points(
    axes: Axes, points: NDArray[np.float32], table: Table, classes: Sequence[int]
) -> None:
    others = ~np.isin(table.label, classes)
    if others.any():
        name = "other classes" if classes else None
        x, y = points[others].T
        axes.scatter(x, y, s=8, color=style.OTHERS, linewidths=0, label=name)
    for number, label in enumerate(classes):
        color, marker = style.look(number)
        x, y = points[table.label == label].T
        axes.scatter(
            x, y, s=11, color=color, marker=marker,
            label=table.class_name(label), edgecolors="white", linewidths=0.25,
        )  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", "datalim")
    axes.spines[:].set(color=style.OTHERS, linewidth=0.8)
