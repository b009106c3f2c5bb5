"""Write report.html, at the end of training or later."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

from accelerate import Accelerator
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from models.methods import METHODS, Method
from pipelines.system.atomic import replacing, write_text
from tools.analysis.loaded_run import LoadedRun, load
from tools.config.config import ResolvedConfig
from tools.engine.data import Data
from tools.plots.curves import training_panels
from tools.reporting import findings, sections
from tools.reporting.embedding_panel import MapMethod, encode_some, map_panel, neighbor_panel
from tools.reporting.pictures import of_file
from tools.runs.metrics import read_metrics
from tools.runs.record import read_config

NAME = "report.html"
TEMPLATE = "report.html.j2"
VIEWS = "Each row shows an image's views, a view's mixture, the share λ, and the partner's view"
PANELS = re.compile(r"<!-- of images -->.*<!-- end of images -->", re.DOTALL)
"""The sections of a page that need the network and the images."""
log = logging.getLogger(__name__)


def at_end(
    config: ResolvedConfig,
    folder: Path,
    data: Data,
    method: Method,
    accelerator: Accelerator,
    left_out: Collection[int] = (),
) -> None:
    """Write the report of a run that has just ended; a failure is logged and the run succeeds.

    ``left_out`` are the steps that the run skipped. Only the main process calls it.
    """
    try:
        run = LoadedRun(config, method, data, accelerator, folder, tuple(sorted(left_out)))
        print(f"report {write(folder, run)}")
    except Exception as error:  # the run itself is complete
        log.warning("%s could not be written: %s: %s", folder / NAME, type(error).__name__, error)


def write(folder: Path, run: LoadedRun | None, map_method: MapMethod = "pca") -> Path:
    """Write ``report.html`` into a run's folder and return its path.

    Without the network and the images (``run`` is None) the page has no neighbors and no map.

    Raises:
        ValueError: the folder is not that of a run.
    """
    path = folder / NAME
    with replacing(path) as temporary:
        temporary.write_text(render(folder, run, map_method), "utf-8")
    return path


def after_score(folder: Path) -> None:
    """Write a run's page again with its new score, if there is a page.

    The neighbours and the map stay as they are: they need the network and the images. A failure is
    logged, since the score itself is complete. Only the main process calls it.
    """
    path = folder / NAME
    try:
        if not path.is_file():
            return
        kept = PANELS.search(path.read_text("utf-8"))
        if kept is None:
            print(f"{path} is of an older version: python tools/report.py {folder} adds the score")
            return
        left_out = left_out_of(folder)
        text = render(folder, None, kept=Markup(kept[0]), left_out=left_out)
        write_text(path, text)
        print(f"report {path}")
    except Exception as error:
        log.warning("%s could not be written: %s: %s", path, type(error).__name__, error)


def left_out_of(folder: Path) -> tuple[int, ...]:
    """Return the steps that a run skipped because their loss was not finite."""
    if read_config(folder).on_nan != "rollback":
        return ()
    return tuple(sorted(load(folder)[1].get("left_out", ())))


def render(
    folder: Path,
    run: LoadedRun | None,
    map_method: MapMethod = "pca",
    *,
    kept: Markup | None = None,
    left_out: tuple[int, ...] = (),
) -> str:
    """Return the page as HTML.

    Args:
        folder: the run's folder.
        run: the network and the images, for the neighbours and the map.
        map_method: method of the map.
        kept: these sections of an earlier page, in place of new ones.
        left_out: the steps that the run skipped, if ``run`` does not have them.
    """
    config = read_config(folder)
    lines = read_metrics(folder / "metrics.jsonl")
    results = read_metrics(folder / "eval.jsonl")
    panels = training_panels(lines)
    some = encode_some(run) if run else None
    profile = findings.read_profile(folder)
    return template().render(
        name=folder.resolve().name,
        config=config,
        state=findings.state_of(config, lines),
        knn=findings.knn_gain(lines),
        best=findings.best(folder, lines),
        kept=kept,
        collapse=findings.collapse(lines),
        throughput=findings.throughput(lines),
        events=findings.events(lines, folder, run.left_out if run else left_out),
        scores=sections.scores(lines, results, METHODS[config.method].method.scored, config.knn_k),
        curves=sections.learning_charts(panels),
        monitors=sections.charts(panels, sections.MONITORS),
        speed=sections.charts(panels, sections.SPEED),
        encoder=run.method.named_encoder if run else None,
        encoded=some is not None,
        neighbors=neighbor_panel(some) if some else None,
        map=map_panel(some, map_method) if some else None,
        views=of_file(folder / "views.png", VIEWS),
        profile=profile,
        profile_rates=sections.profile_rates(profile or {}),
        settings=sections.settings(folder, config),
        date=datetime.now(UTC),
    )


def template() -> Template:
    """Return the page's template; all inserted text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = prose
    return environment.get_template(TEMPLATE)


def prose(text: str) -> Markup:
    """Return a sentence as HTML, with text in backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
