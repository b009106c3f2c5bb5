"""Draw the flatness of features: sorted values of a few images, two measures of all images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipelines.sources.table import Table
from tools.plots import style
from tools.plots.thumbnails import shown, square

ACROSS = 3
Values = Mapping[str, NDArray[np.float64]]
"""A number for each image, (n,), by run name."""


@style.styled
def draw_flatness(
    table: Table,
    features: Mapping[str, NDArray[np.float32]],
    entropy: Values,
    largest: Values,
    num: int,
) -> Figure:
    """Draw the sorted features (n, d) of ``num`` images and two histograms over all n images.

    ``features``, ``entropy`` and ``largest`` (the largest share) have the same runs as keys.
    """
    down = -(-num // ACROSS)
    figure = style.sheet(7.2, 1.75 * down + 2.5)
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.75 * down, 2.2])[:, 0]
    above.suptitle("Raw features of single images, values in ascending order", x=0.01, ha="left")
    cells = above.subplots(down, ACROSS, squeeze=False, sharex=True, sharey=True).flat
    chosen = np.linspace(0, len(table) - 1, num).round().astype(int)
    for place, axes in enumerate(cells):
        if place < num:
            _draw_image(axes, table, features, int(chosen[place]))
            if place % ACROSS == 0:
                axes.set_ylabel("raw value")
        else:
            axes.set_visible(False)
    title = f"Divided by their sum: {len(table):,} images (dashed: mean)"
    below.suptitle(title, x=0.01, ha="left")
    left, right = below.subplots(1, 2)
    _draw_spread(left, entropy, "entropy / ln d   (1: flat)")
    _draw_spread(right, largest, "largest share   (1/d: flat)")
    left.set_ylabel("images")
    style.legend(figure, left)
    return figure


def _draw_image(
    axes: Axes, table: Table, features: Mapping[str, NDArray[np.float32]], row: int
) -> None:
    for number, rows in enumerate(features.values()):
        color, _ = style.look(number)
        values = np.sort(rows[row])
        axes.fill_between(np.arange(len(values)), values, color=color, alpha=0.3, linewidth=0)
        axes.plot(values, color=color, linewidth=1)
        axes.axhline(values[-1], color=color, linewidth=0.8, linestyle=style.DASHES)
    style.tidy(axes)
    inset = axes.inset_axes((0.03, 0.45, 0.3, 0.52))
    inset.imshow(shown(square(table.source.pixels(row))))
    inset.set_axis_off()


def _draw_spread(axes: Axes, values: Values, label: str) -> None:
    bins = np.histogram_bin_edges(np.concatenate(list(values.values())), 40).tolist()
    for number, (name, some) in enumerate(values.items()):
        color, _ = style.look(number)
        axes.hist(some, bins, color=color, alpha=0.35, histtype="stepfilled", label=name)
        axes.axvline(some.mean(), color=color, linewidth=1, linestyle=style.DASHES)
    axes.locator_params(axis="x", nbins=6)
    style.tidy(axes, x=label)
