"""Hand-written runs to compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tools.config.cli import to_dict
from tools.config.config import Config


def write_run(
    root: Path,
    name: str,
    value: float = 0.5,
    step: int = 100,
    line: dict[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """A run's folder as train.py leaves it, scored ``value`` at ``step``; or a line of eval.py."""
    run = root / name
    run.mkdir(parents=True, exist_ok=True)
    defaults = {"method": "simclr", "data": "cifar10", "epochs": 2, "image_size": 32}
    (run / "config.yaml").write_text(yaml.safe_dump(to_dict(Config(**(defaults | settings)))))
    scores = {"knn_top1": value, "knn_top5": 1.0}
    lines = [{"step": 0, "knn_top1": 0.1}, {"step": step, **scores}, {"step": step + 1, "loss": 1}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    if line is not None:
        score = {"protocol": "knn", "k": 200, "data": "cifar10", "step": step, "time": name}
        with (run / "eval.jsonl").open("a") as file:
            file.write(json.dumps(score | {"seed": 0, "knn_top1": value} | line) + "\n")
    return run
