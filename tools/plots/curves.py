"""Two pictures of a run: what the network is shown (views.png), and how it goes (curves.png)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from tools.runs.metrics import read_metrics

DPI = 100


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
