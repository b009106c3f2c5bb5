"""A run's metrics.jsonl and summary.csv: read, summarize, cut back to a step."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from pipelines.system.atomic import replacing

SUMMARY = ("epoch", "step", "loss", "lr", "images_per_second", "knn_top1")
"""Columns of summary.csv; loss and images_per_second are means over the epoch's log lines."""


def summarize(lines: list[dict[str, Any]]) -> dict[str, float]:
    """Return an epoch's mean loss and speed, last learning rate and last score, if logged."""
    known: dict[str, list[float]] = {}
    for line in lines:
        for name in SUMMARY[2:]:
            if line.get(name) is not None:
                known.setdefault(name, []).append(line[name])
    mean = ("loss", "images_per_second")
    return {k: sum(v) / len(v) if k in mean else v[-1] for k, v in known.items()}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl without incomplete ones; empty if there is no file."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:  # the process was killed while writing
            continue
        if isinstance(line, dict) and "step" in line:
            lines.append(line)
    return lines


def cut_metrics(path: Path, last_step: int) -> None:
    """Drop the lines after ``last_step`` from a metrics.jsonl, if there is one."""
    if path.exists():
        kept = [line for line in read_metrics(path) if line["step"] <= last_step]
        with replacing(path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")


def cut_summary(path: Path, last_step: int) -> None:
    """Drop the lines after ``last_step`` from a summary.csv, if there is one."""
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(file) if _is_until(line, last_step)]
    text = io.StringIO()
    writer = csv.DictWriter(text, SUMMARY, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), "utf-8")


def _is_until(line: dict[str, Any], last_step: int) -> bool:
    step = line.get("step") or ""
    return step.isdigit() and int(step) <= last_step
