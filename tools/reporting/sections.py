"""The contents of the report's sections, as data for the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.settings.base import Which
from pipelines.data_facts import data_facts
from tools.config.config import Config, flag
from tools.plots.panels import Panel
from tools.reporting.difference import SettingDifference, command, differences, recipe_of
from tools.reporting.findings import Line
from tools.reporting.pictures import Picture, of_panel
from tools.runs.scores import MEASURES, SCORES

MONITORS = ("std", "rank", "prototype_usage")
SPEED = ("images_per_second", "data_wait")
FIRST = ("loss", "knn", "lr", "lam")
"""The first charts, in this order."""


@dataclass(frozen=True)
class Table:
    """A table of text; the columns ``numeric`` are right-aligned."""

    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    numeric: tuple[int, ...] = ()


@dataclass(frozen=True)
class Settings:
    """A command that trains again with the same settings, and their differences from the base."""

    base: str
    """The base of the comparison: a recipe's name, or "the default"."""
    command: str
    compared: bool
    """Whether the comparison was possible: it needs the run's data."""
    changed: Table | None
    saved: str
    """The text of config.yaml."""


def learning_charts(panels: Mapping[str, Panel]) -> list[Picture]:
    """Return the training charts: losses, kNN, learning rate, λ, and a method's own metrics."""
    rest = [name for name in panels if name not in (*FIRST, *MONITORS, *SPEED)]
    return charts(panels, [*FIRST, *rest])


def charts(panels: Mapping[str, Panel], names: Sequence[str]) -> list[Picture]:
    """Return a chart for each panel of ``names`` that was logged."""
    return [of_panel(panels[name]) for name in names if name in panels]


def scores(lines: Sequence[Line], results: Sequence[Line], scored: Which, k: int) -> Table | None:
    """Return train.py's kNN scores, before training and last, then the lines of eval.jsonl.

    ``scored`` is the encoder that train.py scores, ``k`` its --knn-k, for lines of older runs,
    which do not hold the number of neighbours that voted.
    """
    rows: list[tuple[str, ...]] = []
    known = [line for line in lines if line.get("knn_top1") is not None]
    which = ", encoder momentum" if scored == "momentum" else ""
    for line in known[:1] + known[1:][-1:]:
        name = "kNN while training" + (", at the start" if line["step"] == 0 else "")
        top1, top5 = percent(line, "_top1"), percent(line, "_top5")
        how = f"k {line.get('knn_k', k)}, T 0.1, validation images{which}"
        rows.append((name, top1, top5, f"{line['step']:,}", how, ""))
    for result in results:
        step = f"{result['step']:,}" if isinstance(result.get("step"), int) else ""
        main = percent(result, "_top1") or percent(result, "ap")
        commit = str(result.get("commit") or "")[:9]
        protocol = str(result.get("protocol", "?"))
        rows.append((protocol, main, percent(result, "_top5"), step, conditions(result), commit))
    head = ("protocol", "top-1 or AP", "top-5", "step", "how", "commit")
    return Table(head, rows, (1, 2, 3)) if rows else None


def percent(line: Line, end: str) -> str:
    """Return the first score whose name ends in ``end``, in percent; empty without one."""
    found = (v for k, v in line.items() if k.endswith(end) and isinstance(v, int | float))
    value = next(found, None)
    return "" if value is None else f"{value:.2%}"


NOT_A_CONDITION = {
    *("protocol", "step", "time", "commit", "command", "world_size", "origin"),
    *("train_images", "val_images", "contents"),
}


def conditions(line: Line) -> str:
    """Return the settings that a score depends on, in one line."""
    return ", ".join(
        f"{name} {value}"
        for name, value in line.items()
        if name not in NOT_A_CONDITION
        and isinstance(value, str | int | float)
        and not name.endswith(SCORES + MEASURES)
    )


def profile_rates(profile: Mapping[str, Any]) -> Table | None:
    """Return a table of the throughputs of a profile.json."""
    end = "_images_per_second"
    rates = [
        (name.removesuffix(end).replace("_", " "), f"{value:,.0f}")
        for name, value in profile.items()
        if name.endswith(end) and isinstance(value, int | float)
    ]
    return Table(("part alone", "images/s"), rates, (1,)) if rates else None


def settings(folder: Path, config: Config) -> Settings:
    """Return a command with the same settings, and their differences from the recipe or default."""
    recipe = recipe_of(folder)
    base = recipe.name if recipe else "the default"
    found: list[SettingDifference] | None
    try:
        found = differences(config, recipe, data_facts(config.data))
    except (ValueError, OSError):
        found = None
    rows = [(flag(one.name), shown(one.value), shown(one.before)) for one in found or ()]
    return Settings(
        base=base,
        command=command(config, recipe, found or ()),
        compared=found is not None,
        changed=Table(("setting", "this run", base), rows) if rows else None,
        saved=(folder / "config.yaml").read_text(encoding="utf-8"),
    )


def shown(value: Any) -> str:
    """Return a setting's value as text."""
    if value is None:
        return "not set"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
