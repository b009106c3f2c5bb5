"""Draw rows of captioned images, such as queries with their nearest neighbors."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from tools.plots import style

SHORT = 15
"""Characters of a name that fit below an image."""
SIDE = 160
"""Largest side of an image in pixels."""


@dataclass(frozen=True)
class Cell:
    """An image with the text below it."""

    image: Image.Image
    text: str
    color: str = style.INK
    """Color of the text and the frame."""
    framed: bool = True


@style.styled
def draw_image_grid(
    rows: Sequence[Sequence[Cell]], caption: str, names: Sequence[str] | None = None
) -> Figure:
    """Draw rows of images, all of equal length, with optional names at their left."""
    columns = len(rows[0])
    width = 0.86 * columns + (0.9 if names else 0.1)
    lines = textwrap.wrap(caption, int(15 * width))
    figure = style.sheet(width, 1.08 * len(rows) + 0.2 + 0.15 * len(lines))
    axes_of = figure.subplots(len(rows), columns, squeeze=False)
    figure.suptitle("\n".join(lines), fontsize=8, x=0.01, ha="left")
    for place, (row, line) in enumerate(zip(rows, axes_of, strict=True)):
        for cell, axes in zip(row, line, strict=True):
            _draw_cell(axes, cell)
        if names:
            line[0].set_ylabel(
                short(names[place]), rotation=0, ha="right", va="center", fontsize=7.5, labelpad=6
            )
    return figure


def short(text: str) -> str:
    """Shorten a name to fit below an image."""
    return text if len(text) <= SHORT else text[: SHORT - 1] + "…"


def _draw_cell(axes: Axes, cell: Cell) -> None:
    axes.imshow(cell.image, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(cell.text, fontsize=6.3, color=cell.color, labelpad=2)
    axes.spines[:].set(color=cell.color, linewidth=1.8, visible=cell.framed)
