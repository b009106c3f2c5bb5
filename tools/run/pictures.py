"""Two pictures of a run: what the network is shown (views.png), and how it goes (curves.png)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipelines.batch import Batch
from tools.run.record import read_metrics

SIDE = 144
"""Pixels that the largest view takes in views.png, about; small images grow by whole numbers."""
GAP, HEAD_SPACE, LAM_SPACE = 6, 44, 64
"""Pixels between cells, above the rows, and for each share of a mixture."""
DPI = 100


def draw_views(
    batch: Batch, mean: Sequence[float], std: Sequence[float], path: Path, rows: int = 8
) -> None:
    """Write a grid to ``path``: a row an image, with its views, mixtures and partners' views.

    Views keep their relative sizes; ``mean`` and ``std`` undo the normalisation; a mixture's share
    of its own row stands between it and its partner. At most ``rows`` rows are shown.
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
        beside = len(view) > num  # CLIM's neighbours, each below its anchor
        partner = view[num : num + rows] if beside else view[mixed.partner[:rows]]
        columns.append((f"partner's\nview {number}", cells(partner)))

    numbers = [f"#{row}" for row in batch.index[:rows].tolist()]
    shares = [mixed.lam[:rows].tolist() for mixed in batch.mixed]
    grid(columns, numbers, shares, len(batch.views)).savefig(path, dpi=DPI)


def to_pixels(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.uint8]:
    """Undo the normalisation: (n, 3, h, w) to (n, h, w, 3) uint8."""
    values = images.detach().float().cpu().permute(0, 2, 3, 1).numpy()
    return np.rint((values * np.array(std) + np.array(mean)).clip(0, 1) * 255).astype(np.uint8)


def enlarge(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """Scale an image: whole factors repeat its pixels, others resample."""
    size = max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1)
    how = Image.Resampling.NEAREST if float(scale).is_integer() else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(image).resize(size, how))


def grid(
    columns: list[tuple[str, list[NDArray[np.uint8]]]],
    numbers: list[str],
    shares: list[list[float]],
    num_views: int,
) -> Figure:
    """Return columns of (title, cells), pixel for pixel, and a number for each row.

    Columns after the first ``num_views`` go in twos, with the ``shares`` of the rows between them.
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
    """Return a figure whose one axes counts its pixels from the top left."""
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    return figure, axes


TITLES = {
    "loss": ("Loss", "loss"),
    "knn": ("kNN on the validation set", "accuracy (%)"),
    "lr": ("Learning rate", "learning rate"),
    "speed": ("Throughput", "images / s"),
    "grad_norm": ("Norm of the gradient, before clipping", "2-norm"),
    "std": ("Spread of unit rows (0: collapsed)", "std x sqrt(width)"),
    "rank": ("Effective rank", "dimensions"),
    "lam": ("Own share in the mixtures", "mean λ"),
    "prototype_usage": ("Prototypes in use", "share"),
}
"""Panels that several columns share: title and label of the vertical axis."""

FROM_ZERO = {"lr": None, "std": None, "rank": None, "lam": 1.0, "prototype_usage": 1.02}
"""Panels whose vertical axis starts at 0, and where it ends (None: where the data do)."""


def panel_of(name: str) -> str | None:
    """Return the panel a column of metrics.jsonl belongs to; other names have their own."""
    if name in ("step", "epoch", "world_size"):
        return None
    if name in ("images_per_second", "data_wait"):
        return "speed"
    if name.startswith("knn_"):
        return "knn"
    if name in ("loss", "clean", "mixed") or name.startswith(("loss_", "clean_", "mixed_")):
        return "loss"
    return next((end for end in ("std", "rank") if name.endswith(f"_{end}")), name)


def draw_curves(metrics: Path, path: Path) -> None:
    """Write every column of a metrics.jsonl against the step: losses, kNN, rate, speed, monitors.

    ``panel_of`` says which columns share a panel; a run with one line or without kNN is fine.
    """
    lines = read_metrics(metrics)
    panels: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for line in lines for name in line):
        panel = panel_of(name)
        if panel and any(isinstance(line.get(name), int | float) for line in lines):
            panels.setdefault(panel, []).append(name)
    order = sorted(panels, key=lambda p: list(TITLES).index(p) if p in TITLES else len(TITLES))

    across = min(3, max(len(order), 1))
    down = max(math.ceil(len(order) / across), 1)
    tidy = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)  # inches round each panel
    figure = Figure(figsize=(4.6 * across, 3.1 * down), dpi=DPI, layout=tidy)
    FigureCanvasAgg(figure)
    if not order:
        figure.text(0.5, 0.5, "nothing was logged yet", ha="center", va="center")
    for place, panel in enumerate(order):
        axes = figure.add_subplot(down, across, place + 1)
        _draw_panel(axes, panel, panels[panel], lines)
    figure.savefig(path, dpi=DPI)


def _draw_panel(axes: Axes, panel: str, names: list[str], lines: list[dict[str, Any]]) -> None:
    title, label = TITLES.get(panel, (panel.replace("_", " "), ""))
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("step", fontsize=9)
    axes.set_ylabel(label, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if panel == "speed":
        _draw_speed(axes, names, lines)
        return
    for name in names:
        steps, values = column(lines, name)
        factor = 100 if panel == "knn" else 1
        main = name in ("loss", "knn_top1") or len(names) == 1
        _line(axes, steps, values * factor, name, width=1.6 if main else 1.0)
    if panel == "knn":
        _mark_untrained(axes, lines)
    if panel in FROM_ZERO:
        axes.set_ylim(0, FROM_ZERO[panel])
    if len(names) > 1 or panel == "knn":
        axes.legend(fontsize=8, frameon=False)


def _draw_speed(axes: Axes, names: list[str], lines: list[dict[str, Any]]) -> None:
    if "images_per_second" in names:
        _line(axes, *column(lines, "images_per_second"), "images_per_second", "C0")
        axes.set_ylim(bottom=0)
    if "data_wait" in names:
        steps, values = column(lines, "data_wait")
        wait = axes.twinx()
        _line(wait, steps, values * 100, "data_wait", "C1")
        wait.set_ylim(0, 100)
        wait.set_ylabel("waiting for data (%)", fontsize=9, color="C1")
        wait.tick_params(labelsize=8, colors="C1")
        wait.spines[["top"]].set_visible(False)


def _mark_untrained(axes: Axes, lines: list[dict[str, Any]]) -> None:
    untrained = untrained_knn(lines)
    if untrained is not None:
        label = f"untrained {untrained:.1%}"
        axes.axhline(100 * untrained, color="0.5", linewidth=1, linestyle="--", label=label)


def untrained_knn(lines: list[dict[str, Any]]) -> float | None:
    """Return ``knn_top1`` at step 0, if it was measured."""
    scores = (line.get("knn_top1") for line in lines if line["step"] == 0)
    return next((score for score in scores if score is not None), None)


def column(lines: list[dict[str, Any]], name: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the steps and values of a column, NaN where it is null."""
    having = [line for line in lines if name in line]
    values = [math.nan if line[name] is None else line[name] for line in having]
    return np.array([line["step"] for line in having]), np.array(values, float)


def _line(
    axes: Axes,
    steps: NDArray[np.int64],
    values: NDArray[np.float64],
    name: str,
    colour: str | None = None,
    width: float = 1.4,
) -> None:
    """Draw a line; few points are marked, so that even one is seen."""
    label = name.replace("_", " ").replace("knn top", "kNN top-")
    marker = "o" if len(steps) <= 20 else None
    axes.plot(steps, values, color=colour, label=label, linewidth=width, marker=marker, ms=3)
