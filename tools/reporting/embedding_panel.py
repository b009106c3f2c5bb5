"""What the network makes of some validation images: their neighbours and a map of them all."""

from __future__ import annotations

from typing import Literal

import numpy as np

from tools.analysis import embedding
from tools.analysis.loaded_run import Encoded, LoadedRun, encode, split_of, spread, table_of
from tools.analysis.nearest import class_name, nearest, right
from tools.plots.thumbnails import data_uri, thumbnail
from tools.reporting import charts
from tools.reporting.markup import attribute, note, picture, text

How = Literal["pca", "tsne"]
IMAGES, FEW_IMAGES = 1000, 200
"""Images looked at; the few are for large images without a GPU, where each takes a while."""
SMALL = 64
"""Pixels up to which images count as small."""
QUERIES, K, SIDE = 6, 7, 96


def look(run: LoadedRun) -> Encoded | None:
    """Return features of some validation images, spread evenly; None where there are none."""
    if split_of(run.data) == "train":
        return None
    quick = run.accelerator.device.type == "cuda" or (run.config.image_size or 0) <= SMALL
    table = table_of(run.data, "val")
    return encode(run, "val", spread(len(table), IMAGES if quick else FEW_IMAGES))


def neighbours(some: Encoded) -> str:
    """Return the nearest of the images for a few of them."""
    if len(some.rows) < 3:
        return ""
    queries = spread(len(some.rows), QUERIES)
    k = min(K, len(some.rows) - 1)
    near = nearest(some.features[queries], some.features, k, queries)
    marks = right(near, some.table.label[queries], some.table.label)
    everyone = np.arange(len(some.rows))
    first = nearest(some.features, some.features, 1, everyone)
    all_marks = right(first, some.table.label, some.table.label)
    lines = "".join(
        _line(some, int(query), near.index[i], near.similarity[i], marks[i])
        for i, query in enumerate(queries)
    )
    said = (
        f"Left the query, then its nearest among {len(some.rows):,} validation images, by cosine."
    )
    if (all_marks >= 0).any():
        said += (
            " A full frame and ✓: the query's class; a dashed one and ✗: another. Of all "
            f"{len(some.rows):,} images' single nearest, {all_marks[all_marks >= 0].mean():.1%} "
            "are of the same class."
        )
    return note(said) + f'<div class="scroll" tabindex="0">{lines}</div>'


def _line(
    some: Encoded, query: int, rows: np.ndarray, cosines: np.ndarray, marks: np.ndarray
) -> str:
    cells = [_cell(some, query, "query", -1, "")]
    for row, cosine, mark in zip(rows.tolist(), cosines.tolist(), marks.tolist(), strict=True):
        cells.append(_cell(some, row, "neighbour", mark, f"{cosine:.3f}"))
    return f'<div class="near">{"".join(cells)}</div>'


def _cell(some: Encoded, row: int, what: str, mark: int, cosine: str) -> str:
    image = thumbnail(some.table, row, SIDE)
    name = class_name(some.table, row) or f"row {some.rows[row]}"
    sign, kind = {1: ("✓ ", "right"), 0: ("✗ ", "wrong"), -1: ("", "")}[mark]
    said = f"{what}: {name}" + (f", cosine {cosine}" if cosine else "")
    drawn = picture(data_uri(image), said, *image.size)
    below = f"{sign}{text(name)}<br>{cosine or 'query'}"
    caption = f"<figcaption>{below}</figcaption>"
    return f'<figure class="{kind}" title="{attribute(name)}">{drawn}{caption}</figure>'


def embedding_map(some: Encoded, how: How, seed: int) -> str:
    """Return the map of the images, coloured by class where there are labels."""
    if len(some.rows) < 4:
        return ""
    if how == "tsne":
        places = embedding.tsne(some.features, seed=seed)
        way = f"t-SNE, perplexity {embedding.PERPLEXITY:g}, seed {seed}: near points are alike, \
distances between groups say little"
    else:
        places, share = embedding.principal(some.features)
        way = (
            f"the two main axes of the unit rows, {share:.0%} of their variance; "
            "`tools/report.py --map tsne` draws t-SNE"
        )
    label = some.table.label
    classes = embedding.shown_classes(label)
    names = [some.table.class_name(which) for which in classes]
    looks = np.full(len(label), -1)
    for number, which in enumerate(classes):
        looks[label == which] = number
    others = len(set(label[label >= 0].tolist())) - len(classes)
    title = f"Map of {len(label):,} validation images by {way.split(':')[0].split(';')[0]}"
    drawn = charts.scatter(title, places, looks, names)
    coloured = "" if classes else " The images have no labels, so no point is coloured."
    said = note(f"{len(label):,} validation images by their backbone features: {way}.{coloured}")
    return f'<div class="halves">{drawn}<div>{said}{charts.map_key(names, others)}</div></div>'
