"""views.png: the views and mixtures that are fed to the network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipelines.batch import Batch
from tools.plots.thumbnails import shown

DPI = 100
SIDE = 144
"""Approximate side of the largest view in views.png, in pixels; small images are scaled by whole
numbers."""
GAP, HEAD_SPACE, LAM_SPACE = 6, 44, 64
"""Pixels between the cells, above the rows, and for each λ of a mixture."""


def draw_views(
    batch: Batch, mean: Sequence[float], std: Sequence[float], path: Path, rows: int = 8
) -> None:
    """Write a grid to ``path``: each row shows an image's views, mixtures and partners' views.

    Views keep their relative sizes. ``mean`` and ``std`` undo the normalisation. λ, the share of
    the image itself in a mixture, is printed between the mixture and the partner. At most ``rows``
    rows are shown.
    """
    rows = min(rows, len(batch.index))
    largest = max(view.shape[-1] for view in batch.views)
    scale = round(SIDE / largest) if largest <= SIDE else SIDE / largest

    def cells(images: Tensor) -> list[NDArray[np.uint8]]:
        return [enlarge(image, scale) for image in to_pixels(images, mean, std)]

    columns = []
    for number, view in enumerate(batch.views):
        columns.append((f"view {number}\n{view.shape[-1]} px", cells(view[:rows])))
    for mixed in batch.mixed:
        number = mixed.view
        columns.append((f"mixture\nof view {number}", cells(mixed.image[:rows])))
        view, num = batch.views[mixed.view], len(batch.index)
        has_neighbors = len(view) > num  # CLIM's neighbors follow the anchors, in their order
        partner = view[num : num + rows] if has_neighbors else view[mixed.partner[:rows]]
        columns.append((f"partner's\nview {number}", cells(partner)))

    numbers = [f"#{row}" for row in batch.index[:rows].tolist()]
    shares = [mixed.lam[:rows].tolist() for mixed in batch.mixed]
    grid(columns, numbers, shares, len(batch.views)).savefig(path, dpi=DPI)


def to_pixels(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.uint8]:
    """Undo the normalisation: (n, c, h, w) to RGB as ``shown`` has it, (n, h, w, 3)."""
    values = images.detach().float().cpu().permute(0, 2, 3, 1).numpy()
    values = (values * np.array(std) + np.array(mean)).clip(0, 1)
    return shown(np.rint(values * 255).astype(np.uint8))


def enlarge(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """Scale an image (h, w, 3): whole factors repeat its pixels, other factors resample it."""
    size = max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1)
    how = Image.Resampling.NEAREST if float(scale).is_integer() else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(image).resize(size, how))


def grid(
    columns: list[tuple[str, list[NDArray[np.uint8]]]],
    numbers: list[str],
    shares: list[list[float]],
    num_views: int,
) -> Figure:
    """Draw columns of (title, cells), pixel for pixel, with a number at the left of each row.

    The columns after the first ``num_views`` are pairs of a mixture and its partner. ``shares``
    holds the λ of each row for each pair, which is printed between the two columns.
    """
    tall = max(cells[0].shape[0] for _, cells in columns)
    side = 12 + 8 * max(len(number) for number in numbers)
    lefts, x = [], side
    for place, (_, cells) in enumerate(columns):
        beyond = place - num_views
        if beyond >= 0:
            x += LAM_SPACE - GAP if beyond % 2 else 3 * GAP
        lefts.append(x)
        x += cells[0].shape[1] + GAP
    height = HEAD_SPACE + len(numbers) * (tall + GAP)

    figure, axes = _canvas(x, height)
    paper = np.full((height, x, 3), 255, np.uint8)
    for left, (title, cells) in zip(lefts, columns, strict=True):
        middle = left + cells[0].shape[1] / 2
        axes.text(middle, HEAD_SPACE - 7, title, ha="center", va="bottom", fontsize=9)
        for row, cell in enumerate(cells):
            top = HEAD_SPACE + row * (tall + GAP) + (tall - cell.shape[0]) // 2
            paper[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    for row, number in enumerate(numbers):
        y = HEAD_SPACE + row * (tall + GAP) + tall / 2
        axes.text(side - 6, y, number, ha="right", va="center", fontsize=8, color="0.35")
        for which, share in enumerate(shares):
            x_share = lefts[num_views + 2 * which + 1] - LAM_SPACE / 2
            axes.text(x_share, y, f"λ {share[row]:.2f}", ha="center", va="center", fontsize=10)
    axes.imshow(paper, interpolation="none", aspect="auto", extent=(0, x, height, 0))
    return figure


def _canvas(width: int, height: int) -> tuple[Figure, Axes]:
    """Return a figure with a single axes in pixel coordinates, whose origin is the top left."""
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    return figure, axes
