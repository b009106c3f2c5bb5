"""Nearest neighbors of some validation images, and a map of their embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tools.analysis import embedding
from tools.analysis.loaded_run import Encoded, LoadedRun, encode, split_of, spread, table_of
from tools.analysis.nearest import nearest, same_class
from tools.plots.embedding import draw_maps, shown_classes
from tools.plots.neighbors import class_name
from tools.plots.thumbnails import thumbnail
from tools.reporting.pictures import Picture, of_figure, of_image

MapMethod = Literal["pca", "tsne"]
IMAGES, FEW_IMAGES = 1000, 200
"""Number of encoded images; fewer if they are large and there is no GPU, which is slow."""
SMALL = 64
"""Largest side of a small image in pixels."""
QUERIES, K, SIDE = 6, 7, 96
SIGNS = {1: ("✓ ", "right"), 0: ("✗ ", "wrong"), -1: ("", "")}


@dataclass(frozen=True)
class NeighborCell:
    """An image in a row of neighbors."""

    picture: Picture
    name: str
    """Class name, or row number."""
    below: str
    """"query", or the cosine with the query."""
    sign: str
    kind: str
    """right, wrong, or empty if unknown."""


@dataclass(frozen=True)
class NeighborPanel:
    """A few queries with their nearest images."""

    rows: list[list[NeighborCell]]
    images: int
    same_class: str
    """Share of all images whose nearest image has the same class; empty without labels."""


@dataclass(frozen=True)
class MapPanel:
    """A map of the images, and the method that made it."""

    picture: Picture
    images: int
    method: str
    has_labels: bool
    other_classes: int
    """Number of classes without a color of their own."""


def encode_some(run: LoadedRun) -> Encoded | None:
    """Encode some validation images, spread evenly; return None if there are none."""
    if split_of(run.data) == "train":
        return None
    quick = run.accelerator.device.type == "cuda" or (run.config.image_size or 0) <= SMALL
    table = table_of(run.data, "val")
    return encode(run, "val", spread(len(table), IMAGES if quick else FEW_IMAGES))


def neighbor_panel(some: Encoded) -> NeighborPanel | None:
    """Return a few images with their nearest neighbors, or None for fewer than three images."""
    if len(some.rows) < 3:
        return None
    queries = spread(len(some.rows), QUERIES)
    label, k = some.table.label, min(K, len(some.rows) - 1)
    found = nearest(some.features[queries], some.features, k, queries)
    marks = same_class(found, label[queries], label)
    first = nearest(some.features, some.features, 1, np.arange(len(some.rows)))
    known = same_class(first, label, label)
    known = known[known >= 0]
    rows = []
    for i, query in enumerate(queries):
        cells = [_cell(some, int(query), "query", -1)]
        for row, cosine, mark in zip(found.index[i], found.similarity[i], marks[i], strict=True):
            cells.append(_cell(some, int(row), f"{cosine:.3f}", int(mark)))
        rows.append(cells)
    return NeighborPanel(rows, len(some.rows), f"{known.mean():.1%}" if len(known) else "")


def _cell(some: Encoded, row: int, below: str, mark: int) -> NeighborCell:
    name = class_name(some.table, row) or f"row {some.rows[row]}"
    alt = f"query: {name}" if below == "query" else f"neighbour: {name}, cosine {below}"
    picture = of_image(thumbnail(some.table, row, SIDE), alt)
    return NeighborCell(picture, name, below, *SIGNS[mark])


def map_panel(some: Encoded, method: MapMethod, seed: int = 0) -> MapPanel | None:
    """Return the map of the images, colored by class, or None for fewer than four images."""
    if len(some.rows) < 4:
        return None
    points, name, note = _layout(some.features, method, seed)
    label = some.table.label
    classes = shown_classes(label)
    figure = draw_maps(some.table, [points], [""], "")
    return MapPanel(
        picture=of_figure(figure, f"Map of {len(label):,} validation images by {name}"),
        images=len(label),
        method=name + note,
        has_labels=bool(classes),
        other_classes=len(set(label[label >= 0].tolist())) - len(classes),
    )


def _layout(
    features: NDArray[np.float32], method: MapMethod, seed: int
) -> tuple[NDArray[np.float32], str, str]:
    """Return the images' coordinates (n, 2), the method's name and a remark on it."""
    if method == "tsne":
        name = f"t-SNE, perplexity {embedding.PERPLEXITY:g}, seed {seed}"
        note = ": near points are similar, distances between groups mean little"
        return embedding.tsne(features, seed=seed), name, note
    points, share = embedding.principal(features)
    name = f"the two main axes of the unit rows, {share:.0%} of their variance"
    return points, name, "; `tools/report.py --map tsne` draws t-SNE"
