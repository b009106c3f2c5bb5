"""Findings about a run's metrics, in words, with their thresholds."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tools.config.config import Config
from tools.runs import checkpoint
from tools.runs.run_dir import RESUME

Line = dict[str, Any]
Level = Literal["good", "watch", "bad", "unknown"]

COLLAPSED_STD = 0.1
"""Spread of the unit rows (0: identical, 1: uniform on the sphere) below which they collapsed."""
COLLAPSED_RANK = 2.0
"""Effective rank below which the features have collapsed to about one direction."""
SHRUNK = 0.25
"""Share of its highest value below which a shrinking rank is reported."""
WAITING = 0.1
"""Least share of time spent waiting for data at which the data are the bottleneck."""


@dataclass(frozen=True)
class Finding:
    """A finding: its title, the numbers behind it, and the thresholds."""

    level: Level
    title: str
    text: str
    thresholds: str = ""


def values_of(lines: Sequence[Line], name: str) -> list[float]:
    """Return the finite numbers of a column."""
    found = (line.get(name) for line in lines)
    return [float(v) for v in found if isinstance(v, int | float) and math.isfinite(v)]


def best(folder: Path, lines: Sequence[Line]) -> str | None:
    """Return in words which checkpoint --keep-best kept; None without one."""
    path = checkpoint.best(folder / "checkpoints")
    if path is None:
        return None
    step = checkpoint.step_of(path)
    score = next((line.get("knn_top1") for line in lines if line["step"] == step), None)
    known = "" if score is None else f", kNN top-1 {score:.1%}"
    return f"Best checkpoint by kNN: step {step:,}{known} (eval.py: --checkpoint best)."


def collapse(lines: Sequence[Line]) -> Finding:
    """Report whether the features collapsed, by their spread and rank at the last log line."""
    std, rank = values_of(lines, "features_std"), values_of(lines, "features_rank")
    if not std or not rank:
        return Finding("unknown", "Not monitored", "No line holds features_std and features_rank.")
    thresholds = (
        f"A spread below {COLLAPSED_STD} or an effective rank below {COLLAPSED_RANK:g} counts as "
        f"collapse; a rank below {SHRUNK:.0%} of its highest is worth watching."
    )
    seen = (
        f"At the last log line the features' spread is {std[-1]:.2f} (0: identical, 1: uniform on "
        f"the sphere) and their effective rank {rank[-1]:.1f}, at most {max(rank):.1f} so far."
    )
    if std[-1] < COLLAPSED_STD or rank[-1] < COLLAPSED_RANK:
        return Finding("bad", "Collapsed", seen, thresholds)
    if rank[-1] < SHRUNK * max(rank):
        return Finding("watch", "Rank is shrinking", seen, thresholds)
    return Finding("good", "No collapse", seen, thresholds)


def throughput(lines: Sequence[Line]) -> Finding:
    """Report the throughput, and whether the data or the training step is the bottleneck."""
    speeds, waits = values_of(lines, "images_per_second"), values_of(lines, "data_wait")
    if not speeds:
        return Finding("unknown", "Not measured", "No line holds a speed.")
    speed, wait = statistics.median(speeds), statistics.median(waits) if waits else 0.0
    seen = (
        f"Median {speed:,.0f} images/s ({min(speeds):,.0f} to {max(speeds):,.0f} over "
        f"{len(speeds)} log lines), {wait:.1%} of the time spent waiting for data."
    )
    thresholds = (
        f"At {WAITING:.0%} or more, the data are the bottleneck. `tools/profile_throughput.py` "
        "with this run's flags shows which part, and what would help."
    )
    if wait >= WAITING:
        return Finding("watch", "Bound by the data", seen, thresholds)
    return Finding("good", "Bound by the step", seen, thresholds)


def knn_gain(lines: Sequence[Line]) -> Finding:
    """Compare the last kNN accuracy with that before training."""
    scored = [line for line in lines if line.get("knn_top1") is not None]
    if not scored:
        why = "kNN was not measured: no labels, no validation images, or --knn-every 0."
        return Finding("unknown", "Not scored", why)
    last = scored[-1]
    where = f"after {last['step']:,} steps"
    if scored[0]["step"] != 0:
        return Finding("unknown", f"{last['knn_top1']:.1%}", f"{where}; not measured at the start.")
    before, after = scored[0]["knn_top1"], last["knn_top1"]
    if last["step"] == 0:
        return Finding("unknown", f"{before:.1%} before training", "Not measured again since.")
    points = 100 * (after - before)
    text = f"kNN top-1 on the validation images: {before:.1%} before training, {after:.1%} {where}."
    title = f"{before:.1%} → {after:.1%}"
    if points <= 0:
        return Finding("bad", title, f"{text} It is no better than before training.")
    return Finding("good", title, f"{text} One seed: {points:+.1f} points have no error bar.")


def events(lines: Sequence[Line], folder: Path, left_out: Sequence[int] = ()) -> list[str]:
    """Return the events of training that the run logged, a sentence each."""
    found = []
    for before, now in itertools.pairwise(lines):
        a, b = before.get("world_size"), now.get("world_size")
        if a != b:
            found.append(f"Between steps {before['step']:,} and {now['step']:,}: resumed on {b} "
                         f"processes, {a} before.")  # fmt: skip
    replaced = [line for line in lines if line.get("images_replaced")]
    if replaced:
        first, last = replaced[0]["step"], replaced[-1]["images_replaced"]
        found.append(f"{last:,.0f} times an image that cannot be read was replaced, first by step "
                     f"{first:,}.")  # fmt: skip
    if left_out:
        steps = ", ".join(f"{step:,}" for step in left_out)
        found.append(f"Rolled back, and on without the steps whose loss was not finite: {steps}.")
    lost = [line["step"] for line in lines[1:] if "loss" in line and line["loss"] is None]
    if lost:
        found.append(f"The loss was not finite at step {lost[0]:,}.")
    if (folder / RESUME).exists():
        found.append("Stopped by a signal: --resume auto continues it.")
    return found


def state_of(config: Config, lines: Sequence[Line]) -> str:
    """Return the progress of the run in words."""
    if not lines:
        return "Nothing was logged yet."
    last = lines[-1]
    epoch = last.get("epoch") or 0.0
    images = last["step"] * config.batch_size
    far = f"{epoch:.3g} of {config.epochs:,} epochs"
    end = "The run is complete" if epoch >= config.epochs else "The run is not complete"
    return (
        f"{end}: {far}, {last['step']:,} steps of {config.batch_size:,} images, {images:,} images "
        f"seen, on {last.get('world_size', 1)} process{'es' * (last.get('world_size', 1) > 1)}."
    )


def read_profile(folder: Path) -> dict[str, Any] | None:
    """Return profile.json of tools/profile_throughput.py, or None if the folder has none."""
    try:
        found = json.loads((folder / "profile.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "bottleneck" in found else None
