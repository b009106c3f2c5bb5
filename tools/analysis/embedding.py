"""Maps of features in the plane, coloured by class.

Source: Shen 2022, arXiv:2003.05438, the figure of CIFAR-10's embeddings; the settings of its t-SNE
are not published, ours are scikit-learn's on unit rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipelines.sources.table import Table
from tools.analysis.loaded_run import Encoded
from tools.plots import style

PERPLEXITY = 30.0


def unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows of length 1; rows of zeros stay."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return (features / np.where(length > 0, length, 1)).astype(np.float32)


def tsne(
    features: NDArray[np.float32], perplexity: float = PERPLEXITY, seed: int = 0
) -> NDArray[np.float32]:
    """Return t-SNE's places of the unit rows, (n, 2); a few rows take a smaller perplexity.

    Raises:
        ValueError: fewer than four rows.
    """
    from sklearn.manifold import TSNE  # two seconds, for those alone who draw it

    if len(features) < 4:
        raise ValueError(f"{len(features)} images are too few for a map: it takes four")
    rows = unit(features)
    perplexity = min(perplexity, (len(rows) - 1) / 3)
    start = "pca" if np.ptp(rows, axis=0).any() else "random"
    return TSNE(2, perplexity=perplexity, init=start, random_state=seed).fit_transform(rows)


def principal(features: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Return the unit rows on their two main axes, (n, 2), and the variance's share on these."""
    rows = unit(features).astype(np.float64)
    rows -= rows.mean(axis=0)
    values, axes = np.linalg.eigh(rows.T @ rows)
    total = values.clip(0).sum()
    share = float(values[-2:].clip(0).sum() / total) if total > 0 else 0.0
    return (rows @ axes[:, :-3:-1]).astype(np.float32), share


def shown_classes(label: NDArray[np.int64]) -> list[int]:
    """Return the classes that get a look of their own: the most numerous, in their order."""
    classes, counts = np.unique(label[label >= 0], return_counts=True)
    most = np.argsort(-counts, kind="stable")[: style.NUM_LOOKS]
    return sorted(classes[most].tolist())


def draw(
    names: Sequence[str],
    encoded: Sequence[Encoded],
    places: Sequence[NDArray[np.float32]],
    how: str,
) -> Figure:
    """Draw a panel a run; ``how`` says how the places were found."""
    first = encoded[0].table
    classes = shown_classes(first.label)
    across = min(len(names), 3)
    down = -(-len(names) // across)
    side = 5.0 if across == 1 else 3.5
    columns = _columns(side * across, [*first.classes, "other classes"])
    rows = -(-len(classes) // columns)
    figure = style.sheet(side * across, (side + 0.1) * down + 0.35 + 0.19 * rows)
    cells = figure.subplots(down, across, squeeze=False).flat
    for place, axes in enumerate(cells):
        if place >= len(names):
            axes.set_visible(False)
            continue
        _points(axes, places[place], first, classes)
        axes.set_title(names[place], loc="left")
    handles, labels = cells[0].get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=columns, markerscale=1.8,
            frameon=False, columnspacing=1.2, handletextpad=0.2,
        )  # fmt: skip
    figure.suptitle(how, fontsize=7.5, color=style.FAINT, x=0.01, ha="left")
    return figure


def _columns(width: float, labels: Sequence[str]) -> int:
    """How many columns of the legend fit into so many inches."""
    longest = max(len(label) for label in labels)
    return max(1, min(5, int(width / (0.3 + 0.075 * longest))))


def _points(axes: Axes, places: NDArray[np.float32], table: Table, classes: Sequence[int]) -> None:
    others = ~np.isin(table.label, classes)
    if others.any():
        text = "other classes" if classes else None
        axes.scatter(
            places[others, 0], places[others, 1], s=8, color=style.OTHERS, linewidths=0, label=text
        )
    for number, which in enumerate(classes):
        colour, marker = style.look(number)
        x, y = places[table.label == which].T
        axes.scatter(
            x, y, s=11, color=colour, marker=marker, label=table.class_name(which),
            edgecolors="white", linewidths=0.25,
        )  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", "datalim")
    axes.spines[:].set(color=style.OTHERS, linewidth=0.8)
