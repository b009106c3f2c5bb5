"""Training curves of runs, and their accuracy against their training budget.

Source: Shen 2022, arXiv:2003.05438, the figures of losses and accuracies over 1000 epochs and of
the accuracy against the epochs of whole runs.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.data_spec import split_sum
from tools.config.config import Config
from tools.plots.curves import column, knn_before
from tools.plots.panels import Panel, Series
from tools.runs.comparison import by_seed, name_of
from tools.runs.record import Record, read_record
from tools.runs.scores import (
    ONLINE,
    Scored,
    Settings,
    alike,
    read_scores,
    settings_of,
    text_of,
)

Budget = Literal["epochs", "images", "hours", "steps"]
LABELS = {"epochs": "epochs", "images": "images seen", "hours": "hours of steps", "steps": "steps"}


@dataclass(frozen=True)
class History:
    """A run with the lines of its metrics.jsonl."""

    record: Record

    @property
    def run(self) -> Path:
        """The run's folder, or its file of ``tools/collect.py``."""
        return self.record.path

    @property
    def name(self) -> str:
        """The run's name."""
        return self.record.name

    @property
    def config(self) -> Config:
        """The run's settings."""
        return self.record.config

    @property
    def settings(self) -> Settings:
        """The settings that the result depends on, without the seed."""
        return settings_of(self.config)

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.config.seed

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return self.record.metrics

    def spent(self, budget: Budget, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the cost of so many finished steps, (n,), in the units of ``budget``."""
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
    """Return the hours of training up to each line: its images over the speed that it logged.

    Evaluations, checkpoints and pauses are left out. A line without a speed takes that of the next
    line that has one; if none follows, that of the last line that has one.
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


def read(run: Path) -> History:
    """Read a run's settings and metrics, from its folder or its file of ``tools/collect.py``.

    Raises:
        ValueError: there is no such run, or it has logged nothing.
    """
    history = History(read_record(run))
    if not history.lines:
        raise ValueError(f"{run} holds no metrics")
    return history


def names_of(runs: Sequence[History]) -> list[str]:
    """Return the folders' names, with the data if the runs' data differ."""
    differ = len({run.config.data for run in runs}) > 1
    return [run.name + (f" ({_data_name(run.config.data)})" if differ else "") for run in runs]


def _data_name(data: str) -> str:
    return "+".join(Path(one).name for one in split_sum(data))


def curve_panels(
    runs: Sequence[History], budget: Budget = "epochs", mean: bool = False
) -> list[Panel]:
    """Return panels of the runs' losses and, if measured, kNN accuracies against their cost.

    With ``mean``, runs that differ only in the seed share a line at their mean, in a band of one
    standard deviation on either side.

    Raises:
        ValueError: two runs have the same settings and seed, with ``mean``.
    """
    families = [(name, [run]) for name, run in zip(names_of(runs), runs, strict=True)]
    families = _families(runs) if mean else families
    losses, accuracies = [], []
    for look, (name, some) in enumerate(families):
        losses.append(replace(_series(name, some, "loss", budget), look=look))
        curve = _series(name, some, "knn_top1", budget, scale=100)
        if len(curve.points[0]):
            accuracies.append(replace(curve, look=look))
            before = [value for run in some if (value := knn_before(run.lines)) is not None]
            if before:
                level = [100 * statistics.mean(before)] * 2
                ends = curve.points[0][[0, -1]]
                accuracies.append(Series("", ends, level, "reference", look=look))
    methods = {(run.config.method, run.config.mix) for run in runs}
    note = " (sums of different terms)" if len(methods) > 1 else ""
    panels = [Panel(f"training loss{note}", LABELS[budget], "loss", tuple(losses))]
    if accuracies:
        title = "kNN, dashed: untrained network" + (", band: ± 1 std" if mean else "")
        panels.append(Panel(title, LABELS[budget], "kNN top-1 (%)", tuple(accuracies)))
    return panels


def _families(runs: Sequence[History]) -> list[tuple[str, list[History]]]:
    """Gather the runs that differ only in the seed, with a name for them."""
    gathered = by_seed(runs)
    every = [some[0].settings for some in gathered]
    return [(f"{name_of(one[0].settings, every)}, {len(one)} seeds", one) for one in gathered]


def _series(
    name: str, runs: Sequence[History], measured: str, budget: Budget, scale: float = 1
) -> Series:
    """Return the mean of a column over runs, at the steps at which all of them have it."""
    columns = [column(run.lines, measured) for run in runs]
    known = [dict(zip(s.tolist(), v, strict=True)) for s, v in columns]
    steps = [s for s in known[0] if all(math.isfinite(one.get(s, math.nan)) for one in known)]
    at = np.array(steps, np.int64)
    spent = np.mean([run.spent(budget, at) for run in runs], axis=0)
    values = scale * np.array([[one[step] for step in steps] for one in known])
    mean = values.mean(axis=0)
    if len(runs) == 1:
        return Series(name, spent, mean)
    reach = values.std(axis=0, ddof=1)
    return Series(name, spent, mean, "band", spread=np.stack([mean - reach, mean + reach], 1))


def scores_of(runs: Sequence[History], protocol: str, score: str | None) -> list[Scored]:
    """Return one score of each run, all by the same protocol.

    Raises:
        ValueError: a run has no score, or the protocols differ.
    """
    candidates = [read_scores(run.run, protocol, score) for run in runs]
    for run, some in zip(runs, candidates, strict=True):
        if not some:
            how = "train with --knn-every" if protocol == ONLINE else f"eval.py {protocol} RUN"
            raise ValueError(f"{run.run} has no score by {protocol}: {how}")
    return alike(candidates)


def budget_panel(runs: Sequence[History], scores: Sequence[Scored], budget: Budget) -> Panel:
    """Return a panel of scores against the cost of whole runs, a line for each method and mixture.

    Each seed is a pale point. The line joins the means of cost and score over runs that differ only
    in the seed.

    Raises:
        ValueError: two runs have the same settings and seed.
    """
    known = {run.run: (run, score) for run, score in zip(runs, scores, strict=True)}
    families: dict[str, list[NDArray[np.float64]]] = {}
    for some in by_seed(scores):
        points = []
        for one in some:
            run, score = known[one.run]
            spent = float(run.spent(budget, np.array([score.step]))[0])
            points.append((spent, 100 * score.value))
        mix = "" if run.config.mix == "none" else f" + {run.config.mix}"
        families.setdefault(run.config.method + mix, []).append(np.array(points))
    series = []
    for look, (name, groups) in enumerate(families.items()):
        x, y = np.array(sorted(points.mean(axis=0).tolist() for points in groups)).T
        seed_x, seed_y = np.concatenate(groups).T
        series += [Series("", seed_x, seed_y, "points", look), Series(name, x, y, look=look)]
    protocol, score_name = (scores[0].protocol[name] for name in ("protocol", "score"))
    label = text_of(score_name) + (f" ({protocol})" if protocol == ONLINE else "")
    title = "pale: a seed, full: their mean" if len(scores) > len(by_seed(scores)) else ""
    return Panel(title, f"{LABELS[budget]} of the whole run", f"{label}, %", tuple(series), x_low=0)


def table_of_budget(runs: Sequence[History], scores: Sequence[Scored], budget: Budget) -> str:
    """Return a text table of the cost and the score of each run."""
    lines = [f"{'run':32} {LABELS[budget]:>14} {'step':>9} {'score':>8}"]
    for run, score in zip(runs, scores, strict=True):
        spent = float(run.spent(budget, np.array([score.step]))[0])
        lines.append(f"{run.name:32} {spent:14,.4g} {score.step:9,} {score.value:8.2%}")
    return "\n".join(lines)
