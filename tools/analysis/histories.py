"""What runs wrote down while they trained: their curves, and their accuracy against the budget.

Source: Shen 2022, arXiv:2003.05438, the figures of losses and accuracies over 1000 epochs and of
the accuracy against the epochs of whole runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tools.config.config import Config
from tools.plots import style
from tools.plots.curves import column, untrained_knn
from tools.runs.comparison import ONLINE, Scored, alike, read_config, read_scores
from tools.runs.metrics import read_metrics

Budget = Literal["epochs", "images", "hours", "steps"]
LABELS = {"epochs": "epochs", "images": "images seen", "hours": "hours of steps", "steps": "steps"}
FEW = 25
"""Points of a line that are marked one by one."""


@dataclass(frozen=True)
class History:
    """A run's settings and the lines of its metrics.jsonl."""

    folder: Path
    config: Config
    lines: list[dict[str, Any]]

    def spent(self, budget: Budget, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return what so many finished steps have cost, (n,)."""
        if budget == "steps":
            return steps.astype(np.float64)
        if budget == "images":
            return steps.astype(np.float64) * self.config.batch_size
        known = [line for line in self.lines if line.get("epoch") is not None]
        at = [line["step"] for line in known]
        values = hours(known, self.config.batch_size) if budget == "hours" else None
        if values is None:
            values = [line["epoch"] for line in known]
        return np.interp(steps, at, values).astype(np.float64)


def hours(lines: Sequence[dict[str, Any]], batch_size: int) -> list[float]:
    """Return the hours of training until each line: its images over the speed measured there.

    Evaluations, checkpoints and pauses are no part of it. A line without a speed takes that of
    the next line that has one, else of the last.
    """
    speeds = [line.get("images_per_second") or math.nan for line in lines]
    for place in range(len(speeds) - 2, -1, -1):
        speeds[place] = speeds[place + 1] if math.isnan(speeds[place]) else speeds[place]
    total, before, last, found = 0.0, 0, math.nan, []
    for line, speed in zip(lines, speeds, strict=True):
        last = last if math.isnan(speed) else speed
        images = (line["step"] - before) * batch_size
        total += images / last / 3600 if images else 0.0
        before = line["step"]
        found.append(total)
    return found


def read(folder: Path) -> History:
    """Read a run's settings and metrics.

    Raises:
        ValueError: there is no run, or it has logged nothing.
    """
    try:
        config = read_config(folder)
    except ValueError as error:
        raise ValueError(f"--run {error}") from error
    lines = read_metrics(folder / "metrics.jsonl")
    if not lines:
        raise ValueError(f"--run {folder}: its metrics.jsonl holds nothing yet")
    return History(folder, config, lines)


def names_of(runs: Sequence[History]) -> list[str]:
    """Return the folders' names, with the data where these differ."""
    differ = len({run.config.data for run in runs}) > 1
    return [
        run.folder.resolve().name + (f" ({Path(run.config.data).name})" if differ else "")
        for run in runs
    ]


def draw_curves(runs: Sequence[History], budget: Budget = "epochs") -> Figure:
    """Draw the loss and, where measured, the kNN accuracy of each run against what it cost."""
    scored = any(line.get("knn_top1") is not None for run in runs for line in run.lines)
    figure = style.sheet(7.2 if scored else 4.0, 3.2)
    panels = figure.subplots(1, 1 + scored, squeeze=False)[0]
    for number, (name, run) in enumerate(zip(names_of(runs), runs, strict=True)):
        _course(panels[0], run, "loss", 1, number, name, budget)
        if scored:
            _course(panels[1], run, "knn_top1", 100, number, name, budget)
            untrained = untrained_knn(run.lines)
            if untrained is not None:
                colour, _ = style.look(number)
                panels[1].axhline(100 * untrained, color=colour, lw=0.8, ls=(0, (4, 3)), zorder=1)
    methods = {(run.config.method, run.config.mix) for run in runs}
    what = "training loss" + (" (not comparable between methods)" if len(methods) > 1 else "")
    style.tidy(panels[0], x=LABELS[budget], y="loss", title=what)
    if scored:
        style.tidy(
            panels[1], x=LABELS[budget], y="kNN top-1 (%)", title="kNN, dashed: untrained network"
        )
    _legend(figure, panels[-1])
    return figure


def _course(
    axes: Axes, run: History, name: str, factor: int, number: int, label: str, budget: Budget
) -> None:
    colour, marker = style.look(number)
    steps, values = column(run.lines, name)
    known = np.isfinite(values)
    x, y = run.spent(budget, steps[known]), values[known] * factor
    few = marker if len(x) <= FEW else None
    axes.plot(x, y, color=colour, marker=few, ms=3.5, linewidth=1.4, label=label)


def scores_of(runs: Sequence[History], protocol: str, score: str | None) -> list[Scored]:
    """Return one score of each run, all measured alike.

    Raises:
        ValueError: a run has none, or they were not measured alike.
    """
    candidates = [read_scores(run.folder, protocol, score) for run in runs]
    for run, some in zip(runs, candidates, strict=True):
        if not some:
            how = "train with --knn-every" if protocol == ONLINE else f"eval.py {protocol} --run"
            raise ValueError(f"--run {run.folder} has no score by {protocol}: {how}")
    return alike(candidates)


def draw_budget(runs: Sequence[History], scores: Sequence[Scored], budget: Budget) -> Figure:
    """Draw each run's score against what the whole run cost; a line joins a method and mixture.

    Runs of other seeds at the same cost are points of their own; the line goes through the means.
    """
    families: dict[str, list[tuple[float, float]]] = {}
    for run, score in zip(runs, scores, strict=True):
        mix = "" if run.config.mix == "none" else f" + {run.config.mix}"
        spent = float(run.spent(budget, np.array([score.step]))[0])
        families.setdefault(run.config.method + mix, []).append((spent, 100 * score.value))
    figure = style.sheet(4.6, 3.4)
    axes = figure.add_subplot()
    for number, (name, points) in enumerate(families.items()):
        colour, marker = style.look(number)
        x, y = np.array(sorted(points)).T
        axes.plot(x, y, marker, color=colour, ms=5, alpha=0.6, mew=0)
        places = np.unique(x)
        means = [y[x == place].mean() for place in places]
        axes.plot(places, means, color=colour, linewidth=1.4, marker=marker, ms=5, label=name)
    what, score = scores[0].protocol["protocol"], scores[0].protocol["score"]
    named = {"knn_top1": "kNN top-1", "knn_top5": "kNN top-5"}.get(score, score.replace("_", " "))
    shown = f"{named} ({what})" if what == ONLINE else named
    style.tidy(axes, x=f"{LABELS[budget]} of the whole run", y=f"{shown}, %")
    axes.margins(0.08)
    axes.set_xlim(left=0)
    _legend(figure, axes)
    return figure


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = max(1, min(len(labels), int(80 / (max(map(len, labels)) + 6))))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def table_of_budget(runs: Sequence[History], scores: Sequence[Scored], budget: Budget) -> str:
    """Return a line a run: what it cost and its score."""
    lines = [f"{'run':32} {LABELS[budget]:>14} {'step':>9} {'score':>8}"]
    for run, score in zip(runs, scores, strict=True):
        spent = float(run.spent(budget, np.array([score.step]))[0])
        name = run.folder.resolve().name
        lines.append(f"{name:32} {spent:14,.4g} {score.step:9,} {score.value:8.2%}")
    return "\n".join(lines)
