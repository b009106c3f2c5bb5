"""curves.png: the metrics of a run, in panels that its report shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.plots import style
from tools.plots.panels import Panel, Series, draw_panels
from tools.runs.metrics import read_metrics

DPI = 100
PANELS = {
    "loss": Panel("Loss", "step", "loss"),
    "knn": Panel("kNN on the validation set", "step", "accuracy (%)"),
    "lr": Panel("Learning rate", "step", "learning rate", low=0),
    "images_per_second": Panel("Throughput", "step", "images / s", low=0),
    "data_wait": Panel("Time spent waiting for data", "step", "share (%)", low=0, high=10),
    "grad_norm": Panel("Norm of the gradient, before clipping", "step", "2-norm"),
    "std": Panel("Spread of unit rows (0: collapsed)", "step", "std x sqrt(width)", low=0),
    "rank": Panel("Effective rank", "step", "dimensions", low=0),
    "lam": Panel("Own share in the mixtures", "step", "mean λ", low=0, high=1),
    "prototype_usage": Panel("Prototypes in use", "step", "share", low=0, high=1.02),
}
"""Panels of the known columns, in drawing order."""
PERCENT = ("knn", "data_wait")
NAMES = {"knn_top1": "top-1", "knn_top5": "top-5", "lr": "learning rate", "lam": "mean λ"}


def panel_of(name: str) -> str | None:
    """Return the panel of a column of metrics.jsonl; an unknown column has a panel of its own."""
    if name in ("step", "epoch", "world_size"):
        return None
    if name.startswith("knn_"):
        return "knn"
    if name in ("loss", "clean", "mixed") or name.startswith(("loss_", "clean_", "mixed_")):
        return "loss"
    return next((end for end in ("std", "rank") if name.endswith(f"_{end}")), name)


def training_panels(lines: Sequence[dict[str, Any]]) -> dict[str, Panel]:
    """Return the panels of all columns of metrics.jsonl that hold a finite number."""
    found: dict[str, list[Series]] = {}
    for name in dict.fromkeys(name for line in lines for name in line):
        panel = panel_of(name)
        if panel and any(isinstance(line.get(name), int | float) for line in lines):
            steps, values = column(lines, name)
            if np.isfinite(values).any():
                shown = values * (100 if panel in PERCENT else 1)
                series = Series(NAMES.get(name, name.replace("_", " ")), steps, shown)
                found.setdefault(panel, []).append(series)
    if "knn" in found and (before := knn_before(lines)) is not None:
        ends = found["knn"][0].points[0][[0, -1]]
        name = f"before training {before:.1%}"
        found["knn"].append(Series(name, ends, [100 * before] * 2, "reference", look=0))
    order = sorted(found, key=lambda p: list(PANELS).index(p) if p in PANELS else len(PANELS))
    return {name: replace(known_panel(name), series=tuple(found[name])) for name in order}


def known_panel(name: str) -> Panel:
    """Return the panel with this name, without curves."""
    return PANELS.get(name) or Panel(name.replace("_", " "), "step", "")


def draw_curves(metrics: Path, path: Path) -> None:
    """Draw every column of a metrics.jsonl against the step, and write the picture.

    A file with one line or without lines gives a picture too.
    """
    figure = draw_panels(list(training_panels(read_metrics(metrics)).values()), size=(4.6, 3.1))
    if not figure.axes:
        figure.text(0.5, 0.5, "nothing was logged yet", ha="center", va="center")
    figure.set_dpi(DPI)
    style.save(figure, path)


def knn_before(lines: Sequence[dict[str, Any]]) -> float | None:
    """Return ``knn_top1`` at step 0, if it was measured."""
    scores = (line.get("knn_top1") for line in lines if line["step"] == 0)
    return next((score for score in scores if score is not None), None)


def column(
    lines: Sequence[dict[str, Any]], name: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the steps (n,) and values (n,) of a column, NaN where it is null."""
    having = [line for line in lines if name in line]
    values = [math.nan if line[name] is None else line[name] for line in having]
    return np.array([line["step"] for line in having]), np.array(values, float)
