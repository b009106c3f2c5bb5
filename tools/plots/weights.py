"""Draw histograms of layers' weights, to compare runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tools.plots import style

ACROSS = 3


@dataclass(frozen=True)
class LayerHistogram:
    """The distribution of one layer's weights in each run."""

    layer: str
    edges: NDArray[np.float64]
    """Edges of the bins, (b + 1,)."""
    density: dict[str, NDArray[np.float64]]
    """Density in each bin, (b,), by run name."""


@style.styled
def draw_weights(histograms: Sequence[LayerHistogram]) -> Figure:
    """Draw a panel for each layer."""
    across = min(ACROSS, len(histograms))
    down = -(-len(histograms) // across)
    figure = style.sheet(2.5 * across + 0.3, 1.9 * down + 0.55)
    for place, histogram in enumerate(histograms):
        axes = figure.add_subplot(down, across, place + 1)
        _draw_layer(axes, histogram)
        if place % across == 0:
            axes.set_ylabel("density")
    style.legend(figure, figure.axes[0])
    return figure


def _draw_layer(axes: Axes, histogram: LayerHistogram) -> None:
    for number, (name, density) in enumerate(histogram.density.items()):
        color, _ = style.look(number)
        axes.stairs(density, histogram.edges, fill=True, color=color, alpha=0.25, linewidth=0)
        axes.stairs(density, histogram.edges, color=color, linewidth=1.2, label=name)
    style.tidy(axes, title=histogram.layer)
    axes.title.set_fontsize(8.5)
    axes.ticklabel_format(axis="x", scilimits=(-2, 3))
