"""How a network's weights are spread: histograms of chosen layers, run against run.

Source: Shen 2022, arXiv:2003.05438, the figure of six convolutions of a ResNet-50.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from tools.plots import style

BINS = 50
ACROSS = 3
OUTSIDE = 0.001
"""Share of the weights beyond the axis at either end: a few far ones would hide the others."""


def layers_of(backbone: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Return the weights of all convolutions and linear layers, flat, in the modules' order."""
    return {
        name: module.weight.detach().float().cpu().numpy().ravel()
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }


def choose(names: Sequence[str], asked: Sequence[str], num: int) -> list[str]:
    """Return the layers asked for, or ``num`` spread evenly from the first to the last.

    Raises:
        ValueError: there is no such layer; the nearest names are given.
    """
    for name in asked:
        if name not in names:
            near = difflib.get_close_matches(name, names, 3, 0.3) or list(names[:3])
            raise ValueError(f"--layers {name}: no such layer; nearest: {', '.join(near)}")
    if asked:
        return list(asked)
    places = np.unique(np.linspace(0, len(names) - 1, min(num, len(names))).round().astype(int))
    return [names[place] for place in places]


def histogram(
    weights: NDArray[np.float32], edges: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the counts and the density (counts over number and width) between the edges.

    The first and the last bin hold the weights beyond them, so the counts' sum is their number.
    """
    counts, _ = np.histogram(weights.clip(edges[0], edges[-1]), edges)
    return counts, counts / len(weights) / np.diff(edges)


def edges_of(weights: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Return the edges of bins, the same for all runs, round almost all of the weights.

    There are ``BINS``, or fewer where a layer has few weights.
    """
    together = np.concatenate(weights).astype(np.float64)
    low, high = np.quantile(together, [OUTSIDE, 1 - OUTSIDE])
    if low == high:
        low, high = low - 1, low + 1
    return np.linspace(low, high, 1 + min(BINS, max(2, int(len(weights[0]) ** 0.5))))


def table(runs: Mapping[str, dict[str, NDArray[np.float32]]], layers: Sequence[str]) -> str:
    """Return each layer's number of weights and their deviation in each run."""
    lines = [f"{'layer':32} {'weights':>10}" + "".join(f" {name[:20]:>20}" for name in runs)]
    for layer in layers:
        first = next(iter(runs.values()))[layer]
        spreads = "".join(
            f" {'std ' + format(run[layer].std(), '.5f'):>20}" for run in runs.values()
        )
        lines.append(f"{layer:32} {len(first):10,}{spreads}")
    return "\n".join(lines)


def draw(runs: Mapping[str, dict[str, NDArray[np.float32]]], layers: Sequence[str]) -> Figure:
    """Draw a panel a layer, with the density of its weights in each run."""
    down = -(-len(layers) // ACROSS)
    across = min(ACROSS, len(layers))
    figure = style.sheet(2.5 * across + 0.3, 1.9 * down + 0.55)
    cells = figure.subplots(down, across, squeeze=False).flat
    for place, axes in enumerate(cells):
        if place < len(layers):
            _layer(axes, runs, layers[place])
            if place % across == 0:
                axes.set_ylabel("density")
        else:
            axes.set_visible(False)
    handles, labels = cells[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(len(runs), 3), frameon=False
    )
    return figure


def _layer(axes: Axes, runs: Mapping[str, dict[str, NDArray[np.float32]]], layer: str) -> None:
    edges = edges_of([run[layer] for run in runs.values()])
    for number, (name, run) in enumerate(runs.items()):
        colour, _ = style.look(number)
        _, density = histogram(run[layer], edges)
        axes.stairs(density, edges, fill=True, color=colour, alpha=0.25, linewidth=0)
        axes.stairs(density, edges, color=colour, linewidth=1.2, label=name)
    style.tidy(axes, title=layer)
    axes.title.set_fontsize(8.5)
    axes.ticklabel_format(axis="x", scilimits=(-2, 3))
