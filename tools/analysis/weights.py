"""Histograms of the weights of chosen layers, to compare runs.

Source: Shen 2022, arXiv:2003.05438, the figure of six convolutions of a ResNet-50.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tools.plots.weights import LayerHistogram

BINS = 50
OUTSIDE = 0.001
"""Share of the weights beyond the axis at each end; a few outliers would hide the rest."""

Layers = Mapping[str, NDArray[np.float32]]
"""The weights of each layer, flat, by the layer's name."""


def layers_of(backbone: nn.Module) -> Layers:
    """Return the weights of all convolutions and linear layers, in the modules' order."""
    return {
        name: module.weight.detach().float().cpu().numpy().ravel()
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }


def choose(names: Sequence[str], wanted: Sequence[str], num: int) -> list[str]:
    """Return the ``wanted`` layers, or ``num`` spread evenly from the first to the last.

    Raises:
        ValueError: there is no such layer; the message gives the nearest names.
    """
    for name in wanted:
        if name not in names:
            near = difflib.get_close_matches(name, names, 3, 0.3) or list(names[:3])
            raise ValueError(f"--layers {name}: no such layer; nearest: {', '.join(near)}")
    if wanted:
        return list(wanted)
    places = np.unique(np.linspace(0, len(names) - 1, min(num, len(names))).round().astype(int))
    return [names[place] for place in places]


def edges_of(weights: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Return the edges of bins that cover almost all of the weights, the same for all runs.

    There are ``BINS`` bins, or fewer if a layer has few weights.
    """
    together = np.concatenate(weights).astype(np.float64)
    low, high = np.quantile(together, [OUTSIDE, 1 - OUTSIDE])
    if low == high:
        low, high = low - 1, low + 1
    return np.linspace(low, high, 1 + min(BINS, max(2, int(len(weights[0]) ** 0.5))))


def histogram(
    weights: NDArray[np.float32], edges: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the counts and the density (counts over number and width) in the bins.

    The first and the last bin include the weights beyond them, so the counts add up to all weights.
    """
    counts, _ = np.histogram(weights.clip(edges[0], edges[-1]), edges)
    return counts, counts / len(weights) / np.diff(edges)


def histograms(runs: Mapping[str, Layers], layers: Sequence[str]) -> list[LayerHistogram]:
    """Return the density of each layer's weights in each run."""
    found = []
    for layer in layers:
        edges = edges_of([run[layer] for run in runs.values()])
        density = {name: histogram(run[layer], edges)[1] for name, run in runs.items()}
        found.append(LayerHistogram(layer, edges, density))
    return found


def table(runs: Mapping[str, Layers], layers: Sequence[str]) -> str:
    """Return a text table of each layer's number of weights and standard deviation in each run."""
    lines = [f"{'layer':32} {'weights':>10}" + "".join(f" {name[:20]:>20}" for name in runs)]
    for layer in layers:
        first = next(iter(runs.values()))[layer]
        spreads = "".join(
            f" {'std ' + format(run[layer].std(), '.5f'):>20}" for run in runs.values()
        )
        lines.append(f"{layer:32} {len(first):10,}{spreads}")
    return "\n".join(lines)
