"""How flat predictions are: the values of an image's feature, sorted, and what that says.

Published is the raw feature, sorted ascending. It mixes the feature's scale with its flatness, so
beside it stand the entropy and the maximum of the feature divided by its sum, over many images.

Source: Shen 2022, arXiv:2003.05438, the figure of 2048 sorted predictions of six ImageNet images.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tools.analysis.loaded_run import Encoded
from tools.plots import style
from tools.plots.thumbnails import square

ACROSS = 3


def as_shares(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Divide each row's absolute values by their sum, (n, d); a row of zeros becomes even."""
    size = np.abs(features.astype(np.float64))
    total = size.sum(axis=1, keepdims=True)
    even = np.full_like(size, 1 / size.shape[1])
    return np.divide(size, total, out=even, where=total > 0)


def entropy(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each row's entropy divided by ln d: 1 for d equal shares, 0 for a single one; (n,)."""
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return -(shares * logs).sum(axis=1) / np.log(shares.shape[1])


def table(names: Sequence[str], encoded: Sequence[Encoded]) -> str:
    """Return the means over the images, a line a run."""
    head = f"{'run':28} {'raw max':>9} {'raw sum':>9} {'entropy/ln d':>13} {'largest share':>14}"
    lines = [head]
    for name, some in zip(names, encoded, strict=True):
        raw, shares = np.abs(some.features), as_shares(some.features)
        lines.append(
            f"{name:28} {raw.max(1).mean():9.4f} {raw.sum(1).mean():9.2f} "
            f"{entropy(shares).mean():13.4f} {shares.max(1).mean():14.5f}"
        )
    return "\n".join(lines)


def draw(names: Sequence[str], encoded: Sequence[Encoded], num: int) -> Figure:
    """Draw the sorted features of ``num`` images, and the two measures of all of them."""
    down = -(-num // ACROSS)
    figure = style.sheet(7.2, 1.75 * down + 2.5)
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.75 * down, 2.2])[:, 0]
    above.suptitle("Raw features of single images, values in ascending order", x=0.01, ha="left")
    cells = above.subplots(down, ACROSS, squeeze=False, sharex=True, sharey=True).flat
    chosen = np.linspace(0, len(encoded[0].rows) - 1, num).round().astype(int)
    for place, axes in enumerate(cells):
        if place < num:
            _image(axes, names, encoded, int(chosen[place]))
            if place % ACROSS == 0:
                axes.set_ylabel("raw value")
        else:
            axes.set_visible(False)
    below.suptitle(
        f"Divided by their sum: {len(encoded[0].rows):,} images (dashed: mean)", x=0.01, ha="left"
    )
    left, right = below.subplots(1, 2)
    shares = [as_shares(some.features) for some in encoded]
    _spread(left, names, [entropy(some) for some in shares], "entropy / ln d   (1: flat)")
    _spread(right, names, [some.max(axis=1) for some in shares], "largest share   (1/d: flat)")
    left.set_ylabel("images")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(len(names), 4), frameon=False
    )
    return figure


def _image(axes: Axes, names: Sequence[str], encoded: Sequence[Encoded], which: int) -> None:
    for number, (_, some) in enumerate(zip(names, encoded, strict=True)):
        colour, _ = style.look(number)
        values = np.sort(some.features[which])
        axes.fill_between(np.arange(len(values)), values, color=colour, alpha=0.3, linewidth=0)
        axes.plot(values, color=colour, linewidth=1)
        axes.axhline(values[-1], color=colour, linewidth=0.8, linestyle=(0, (4, 3)))
    style.tidy(axes)
    inset = axes.inset_axes((0.03, 0.45, 0.3, 0.52))
    inset.imshow(square(encoded[0].table.source.pixels(which)))
    inset.set_axis_off()


def _spread(
    axes: Axes, names: Sequence[str], values: Sequence[NDArray[np.float64]], label: str
) -> None:
    together = np.concatenate(values)
    bins = np.histogram_bin_edges(together, 40).tolist()
    for number, (name, some) in enumerate(zip(names, values, strict=True)):
        colour, _ = style.look(number)
        axes.hist(some, bins, color=colour, alpha=0.35, histtype="stepfilled", label=name)
        axes.axvline(statistics.fmean(some), color=colour, linewidth=1, linestyle=(0, (4, 3)))
    axes.locator_params(axis="x", nbins=6)
    style.tidy(axes, x=label)
