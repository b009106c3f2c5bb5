"""views.png: the views and mixtures that are fed to the network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pipelines.batch import Batch
from pipelines.views import View
from tools.plots.thumbnails import shown

DPI = 100
SIDE = 144
"""Approximate side of the largest view in views.png, in pixels; small images are scaled by whole
numbers."""
GAP, HEAD_SPACE, LAM_SPACE = 6, 44, 64
"""Pixels between the cells, above the rows, and for each λ of a mixture."""
LINE_SPACE, NARROWEST = 11, 56
"""Pixels of a line of an augmentation's numbers, and of a cell under which they have no room."""


def draw_views(
    batch: Batch,
    mean: Sequence[float],
    std: Sequence[float],
    path: Path,
    rows: int = 8,
    views: Sequence[View] = (),
) -> None:
    """Write a grid to ``path``: each row shows an image's views, mixtures and partners' views.

    Views keep their relative sizes. ``mean`` and ``std`` undo the normalisation. λ, the share of
    the image itself in a mixture, is printed between the mixture and the partner. At most ``rows``
    rows are shown, the batch's with structure. The numbers of ``views`` stand above their columns.
    """
    num = len(batch.index)
    paired = [mixed.partner for mixed in batch.mixed if len(batch.views[mixed.view]) == num]
    shown = with_structure(batch.views[0][:num], rows, paired[0] if paired else None)
    listed = shown.to(batch.index.device)
    largest = max(view.shape[-1] for view in batch.views)
    scale = round(SIDE / largest) if largest <= SIDE else SIDE / largest

    def cells(images: Tensor) -> list[NDArray[np.uint8]]:
        return [enlarge(image, scale) for image in to_pixels(images, mean, std)]

    columns = []
    for number, view in enumerate(batch.views):
        columns.append((f"view {number}\n{view.shape[-1]} px", cells(view[listed])))
    for mixed in batch.mixed:
        number = mixed.view
        title = f"{mixed.name or 'mixture'}{', key' if mixed.key else ''}"
        columns.append((f"{title}\nof view {number}", cells(mixed.image[listed])))
        number = number if mixed.partner_view is None else mixed.partner_view
        view = batch.views[number]
        has_neighbors = len(view) > num  # CLIM's neighbors follow the anchors, in their order
        partner = view[num + listed] if has_neighbors else view[mixed.partner[listed]]
        columns.append((f"partner's\nview {number}", cells(partner)))

    numbers = [f"#{row}" for row in batch.index[listed].tolist()]
    shares = [mixed.lam[listed].tolist() for mixed in batch.mixed]
    captions = [caption(view) for view in views]
    grid(columns, numbers, shares, len(batch.views), captions).savefig(path, dpi=DPI)


def with_structure(images: Tensor, count: int, partner: Tensor | None = None) -> Tensor:
    """Choose ``count`` images (n, c, h, w) that are not flat; return their places, ascending.

    Of the quarter of the images with the largest mean standard deviation inside patches of an
    eighth of the side, every so many is taken, so that not all show the finest texture. An image
    counts no more than its ``partner`` (n,).
    """
    gray = images.detach().float().mean(1, keepdim=True)
    side = max(images.shape[-1] // 8, 1)
    mean, square = F.avg_pool2d(gray, side), F.avg_pool2d(gray**2, side)
    score = (square - mean**2).clamp_min(0).sqrt().mean((1, 2, 3))
    if partner is not None:
        score = torch.minimum(score, score[partner])
    ranked = torch.argsort(score.cpu(), descending=True, stable=True)
    ranked = ranked[: max(count, len(ranked) // 4)]
    every = max(len(ranked) // count, 1)
    return ranked[::every][:count].sort().values


def caption(view: View) -> list[str]:
    """Return a view's numbers as short lines; operations that are off are left out."""
    shares = {
        "flip": view.flip,
        "v-flip": view.vertical_flip,
        "rotate90": view.rotate90,
        "jitter": view.jitter_prob,
        "gray": view.gray,
        "blur": view.blur,
        "solarize": view.solarize,
    }
    more = {"jitter": _short(view.jitter), "blur": f"sigma {_short(view.blur_sigma)}"}
    lines = [f"crop {_short(view.scale)}"]
    for name, share in shares.items():
        if share:
            lines += [f"{name} {_short((share,))}", *([more[name]] if name in more else [])]
    return lines


def _short(numbers: Sequence[float]) -> str:
    return " ".join(f"{number:.2g}".removeprefix("0") or "0" for number in numbers)


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
    captions: Sequence[Sequence[str]] = (),
) -> Figure:
    """Draw columns of (title, cells), pixel for pixel, with a number at the left of each row.

    The columns after the first ``num_views`` are pairs of a mixture and its partner. ``shares``
    holds the λ of each row for each pair, which is printed between the two columns. ``captions``
    are lines under the titles of the first columns.
    """
    head = HEAD_SPACE + LINE_SPACE * max(map(len, captions), default=0)
    tall = max(cells[0].shape[0] for _, cells in columns)
    side = 12 + 8 * max(len(number) for number in numbers)
    lefts, x = [], side
    for place, (_, cells) in enumerate(columns):
        beyond = place - num_views
        if beyond >= 0:
            x += LAM_SPACE - GAP if beyond % 2 else 3 * GAP
        lefts.append(x)
        x += cells[0].shape[1] + GAP
    height = head + len(numbers) * (tall + GAP)

    figure, axes = _canvas(x, height)
    paper = np.full((height, x, 3), 255, np.uint8)
    for number, (left, (title, cells)) in enumerate(zip(lefts, columns, strict=True)):
        middle = left + cells[0].shape[1] / 2
        axes.text(middle, HEAD_SPACE - 7, title, ha="center", va="bottom", fontsize=9)
        for place, line in enumerate(captions[number] if number < len(captions) else ()):
            if cells[0].shape[1] >= NARROWEST:
                y = HEAD_SPACE - 4 + place * LINE_SPACE
                axes.text(middle, y, line, ha="center", va="top", fontsize=6.5, color="0.35")
        for row, cell in enumerate(cells):
            top = head + row * (tall + GAP) + (tall - cell.shape[0]) // 2
            paper[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    for row, name in enumerate(numbers):
        y = head + row * (tall + GAP) + tall / 2
        axes.text(side - 6, y, name, ha="right", va="center", fontsize=8, color="0.35")
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
