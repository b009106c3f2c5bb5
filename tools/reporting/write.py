"""The page of a run, put together and written: at the end of training, or later."""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from models.methods import METHODS, Method
from pipelines.datasets import data_facts
from pipelines.system.atomic import replacing
from tools.analysis.loaded_run import LoadedRun
from tools.config.config import Config, ResolvedConfig
from tools.engine.build import Data
from tools.reporting import embedding_panel, findings, sections
from tools.reporting.difference import SettingDifference, command, differences, recipe_of
from tools.reporting.markup import note, page, prose, section, text
from tools.runs.comparison import read_config
from tools.runs.metrics import read_metrics

NAME = "report.html"
log = logging.getLogger(__name__)


def at_end(
    config: ResolvedConfig,
    folder: Path,
    data: Data,
    method: Method,
    accelerator: Accelerator,
    left_out: Collection[int] = (),
) -> None:
    """Write the page of a run that has just ended; a failure is said, and fails nothing.

    ``left_out`` are the steps that the run left out. One process alone calls it.
    """
    try:
        run = LoadedRun(config, method, data, accelerator, folder, tuple(sorted(left_out)))
        print(f"report {write(folder, run)}")
    except Exception as error:  # whatever it is, the run itself is well
        log.warning("%s could not be written: %s: %s", folder / NAME, type(error).__name__, error)


def write(folder: Path, run: LoadedRun | None, how: embedding_panel.How = "pca") -> Path:
    """Write ``report.html`` into a run's folder and return its path.

    Without its network and images (``run`` is None) it has no neighbours and no map.

    Raises:
        ValueError: the folder holds no run.
    """
    path = folder / NAME
    with replacing(path) as temporary:
        temporary.write_text(html(folder, run, how), "utf-8")
    return path


def html(folder: Path, run: LoadedRun | None, how: embedding_panel.How) -> str:
    """Return the page."""
    config = read_config(folder)
    lines = read_metrics(folder / "metrics.jsonl")
    results = read_metrics(folder / "eval.jsonl")
    name = folder.resolve().name
    knn, health, speed = (
        findings.knn_gain(lines),
        findings.collapse(lines),
        findings.throughput(lines),
    )
    cards = [("kNN, untrained → trained", knn), ("Collapse", health), ("Throughput", speed)]
    mixture = "no mixture" if config.mix == "none" else f"mixture {config.mix}"
    what = f"{config.method} with {mixture} on {config.data}, {config.backbone}, seed {config.seed}"
    head = f"<h1>{text(name)}</h1><p>{text(what)}.<br>{text(findings.state_of(config, lines))}</p>"
    happened = findings.events(lines, folder, run.left_out if run else ())
    notes = "".join(f"<li>{text(event)}</li>" for event in happened)
    some = embedding_panel.look(run) if run else None
    unseen = note("No validation images, or they were not looked at.") if some is None else ""
    body = [
        head + sections.summary(cards),
        section("events", "On the way", f"<ul>{notes}</ul>" if notes else ""),
        section(
            "scores",
            "Scores",
            sections.scores(lines, results, METHODS[config.method].method.scored),
        ),
        section("curves", "Curves", sections.course(lines)),
        section(
            "collapse",
            "Collapse monitors",
            _with(sections.curves(lines, sections.MONITORS), health),
        ),
        section(
            "neighbours",
            "Nearest neighbours",
            _seen(run) + embedding_panel.neighbours(some) if some else unseen,
        ),
        section(
            "map",
            "Map of the embedding",
            embedding_panel.embedding_map(some, how, 0) if some else "",
        ),
        section("views", "Views and mixtures", sections.gallery(folder / "views.png")),
        section("speed", "Throughput", _speed(lines, folder, speed)),
        section("settings", "Settings", _settings(folder, config)),
        f"<footer>Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by tools/report.py.</footer>",
    ]
    return page(f"{name}: {what}", "".join(body), style())


def _seen(run: LoadedRun | None) -> str:
    """Name the encoder whose features are looked at, where there are two."""
    which = run.method.named_encoder if run else None
    return note(f"Features of the {which} encoder, here and in the map.") if which else ""


def _with(charts: str, found: findings.Finding) -> str:
    said = f"{found.title}. {found.text} {found.law}"
    return f"<p>{prose(said)}</p>{charts}" if charts else ""


def _speed(lines: list[dict[str, Any]], folder: Path, found: findings.Finding) -> str:
    charts = sections.curves(lines, ("images_per_second", "data_wait"))
    return _with(charts, found) + sections.profile(folder)


def _settings(folder: Path, config: Config) -> str:
    recipe = recipe_of(folder)
    base = recipe.name if recipe else "the default"
    found: list[SettingDifference] | None
    try:
        found = differences(config, recipe, data_facts(config.data))
    except (ValueError, OSError):
        found = None
    words = command(config, recipe, found or ())
    saved = (folder / "config.yaml").read_text(encoding="utf-8")
    return sections.settings(config, base, found, words, saved)


def style() -> str:
    """Return the page's style sheet."""
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")
