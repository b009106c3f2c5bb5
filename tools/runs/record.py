"""What a run has recorded: its folder, or the small file that ``tools/collect.py`` made of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tools.config.cli import from_saved
from tools.config.config import Config
from tools.config.reason import reason_of
from tools.runs.metrics import read_metrics


@dataclass(frozen=True)
class Record:
    """A run's settings and measurements."""

    path: Path
    """The folder, or the collected file."""
    config: Config
    metrics: list[dict[str, Any]]
    """Lines of metrics.jsonl; a collected file has those with a kNN score."""
    scores: list[dict[str, Any]]
    """Lines of eval.jsonl."""

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.resolve().name.removesuffix(".json")


def read_record(run: Path) -> Record:
    """Read a run's folder, or its collected file.

    Raises:
        ValueError: there is no such run, or its settings are not valid.
    """
    if run.is_file():
        return _collected(run)
    config = read_config(run)
    return Record(
        run, config, read_metrics(run / "metrics.jsonl"), read_metrics(run / "eval.jsonl")
    )


def _collected(path: Path) -> Record:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        settings = _nested(held["settings"]) | {"seed": held["seed"]}
        metrics, scores = list(held["metrics"]), list(held["scores"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is neither the folder of a run nor a file of tools/collect.py"
        ) from error
    return Record(path, from_saved(settings, str(path)), metrics, scores)


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted names, such as 'simclr.dim', into dictionaries in a dictionary."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        section, dot, key = name.partition(".")
        if dot:
            found.setdefault(section, {})[key] = value
        else:
            found[name] = value
    return found


def read_config(run: Path) -> Config:
    """Return the settings in a run's folder; a setting newer than the run has its old default.

    Raises:
        ValueError: there is no such run, or its config.yaml is not valid.
    """
    path = run / "config.yaml"
    if not path.exists():
        runs = sorted(found.parent for found in run.glob("*/config.yaml"))
        hint = f"; the runs in it go by their own names, such as {runs[0]}" if runs else ""
        raise ValueError(f"{run} is not the folder of a run: it has no config.yaml{hint}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{run} is not the folder of a run: {reason_of(error)}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no settings")
    return from_saved(values, str(path))
