"""The parts of the page, each made of what the run left; a part with nothing to show is empty."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from models.methods.base import Which
from tools.config.config import Config, flag
from tools.plots.curves import TITLES, column, panel_of, untrained_knn
from tools.plots.thumbnails import data_uri
from tools.reporting import charts, findings
from tools.reporting.charts import Series
from tools.reporting.difference import SettingDifference
from tools.reporting.findings import Finding, Line
from tools.reporting.markup import figure, fold, note, picture, prose, table, text
from tools.runs.comparison import SCORES

WIDE = 1600
"""Pixels to which wider pictures are made smaller."""
LARGE = 700_000
"""Bytes of a picture above which it is compressed harder."""
FROM_ZERO = {"speed", "std", "rank", "prototype_usage"}
MONITORS = ("std", "rank", "prototype_usage")
NAMES = {
    "knn_top1": "top-1", "knn_top5": "top-5", "images_per_second": "images/s",
    "data_wait": "waiting for data", "lr": "learning rate", "lam": "mean λ",
}  # fmt: skip


def summary(cards: Sequence[tuple[str, Finding]]) -> str:
    """Return the judgements on top of the page."""
    body = "".join(
        f'<div class="card"><h3>{text(what)}</h3><strong class="{found.level}">'
        f"{text(found.title)}</strong><p>{prose(found.text)}</p></div>"
        for what, found in cards
    )
    return f'<div class="cards">{body}</div>'


def settings(
    config: Config,
    base: str,
    found: Sequence[SettingDifference] | None,
    command: str,
    config_text: str,
) -> str:
    """Return the command, and the settings beside those of the recipe or the defaults."""
    everything = fold("All settings (config.yaml)", f"<pre>{text(config_text)}</pre>")
    if found is None:
        return (
            note("The settings could not be compared: the run's data are not there.") + everything
        )
    head = (
        f"<p>This command trains with the same settings; what it does not name is {text(base)}.</p>"
        f"<pre>{text(command)}</pre>"
    )
    rows = [(flag(one.name), shown(one.value), shown(one.before)) for one in found]
    changed = table(("setting", "this run", base), rows) if rows else note("Nothing differs.")
    return head + changed + everything


def shown(value: Any) -> str:
    """Return a setting's value for people."""
    if value is None:
        return "not set"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def panels(lines: Sequence[Line]) -> dict[str, list[str]]:
    """Return the columns of metrics.jsonl that hold numbers, by the panel they share."""
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for line in lines for name in line):
        panel = panel_of(name)
        if panel and findings.values_of(lines, name):
            panel = name if panel == "speed" else panel
            found.setdefault(panel, []).append(name)
    return found


def curves(lines: list[Line], names: Sequence[str]) -> str:
    """Return a chart for each panel of ``names`` that was logged."""
    found = panels(lines)
    parts = [
        figure(title_of(name), chart(lines, name, found[name])) for name in names if name in found
    ]
    return f'<div class="charts">{"".join(parts)}</div>' if any(parts) else ""


def course(lines: list[Line]) -> str:
    """Return the charts of what is learnt: losses, kNN, rate, shares, whatever a method logs."""
    aside = {*MONITORS, "images_per_second", "data_wait"}
    order = ["loss", "knn", "lr", "lam"]
    rest = [name for name in panels(lines) if name not in (*order, *aside)]
    return curves(lines, [*order, *rest])


def title_of(panel: str) -> str:
    """Return a panel's title."""
    if panel == "data_wait":
        return "Time spent waiting for data (%)"
    title, _ = TITLES.get(panel, (panel.replace("_", " "), ""))
    if panel == "images_per_second":
        return "Throughput (images/s)"
    return title + (", top-1 (%)" if panel == "knn" else "")


def chart(lines: list[Line], panel: str, names: Sequence[str]) -> str:
    """Return the chart of a panel's columns against the step."""
    factor = 100 if panel in ("knn", "data_wait") else 1
    series = []
    for name in ("knn_top1",) if panel == "knn" else names:
        steps, values = column(lines, name)
        series.append(
            Series(NAMES.get(name, name.replace("_", " ")), steps.astype(float), factor * values)
        )
    untrained = untrained_knn(lines) if panel == "knn" else None
    if untrained is not None:
        ends = series[0].x[[0, -1]]
        series.append(Series("untrained top-1", ends, 0 * ends + 100 * untrained, dashed=True))
    low = 0.0 if panel in FROM_ZERO or panel in ("images_per_second", "data_wait", "lr") else None
    high = 100 * findings.WAITING if panel == "data_wait" else None
    return charts.lines(title_of(panel), series, "step", low=low, high=high)


def gallery(path: Path) -> str:
    """Return the picture of the views and mixtures that the run made before its first step."""
    try:
        with Image.open(path) as image:
            drawn = image.convert("RGB")
    except (OSError, ValueError):
        return ""
    said = "A row an image: its views, the mixture of a view, the share λ, and the partner's view"
    wide = min(drawn.width, WIDE)
    shape = {"width": wide, "height": round(drawn.height * wide / drawn.width)}
    image_tag = picture(compressed(drawn), said, **shape, kind="paper wide")
    return f'<div class="scroll" tabindex="0">{image_tag}</div>' + note(said + ".")


def compressed(image: Image.Image) -> str:
    """Return a picture for the page: sharp and small where it is small, never very large."""
    if image.width > WIDE:
        size = WIDE, round(image.height * WIDE / image.width)
        image = image.resize(size, Image.Resampling.LANCZOS)
    sources = (data_uri(image, quality) for quality in (85, 65, 40, 20))
    return next((source for source in sources if len(source) < LARGE), data_uri(image, 10))


def profile(folder: Path) -> str:
    """Return what tools/profile_throughput.py found, if its profile.json lies in the folder."""
    found = findings.read_profile(folder)
    if found is None:
        return ""
    words = f"<p><strong>Profile:</strong> {prose(str(found['bottleneck']))}</p>"
    rates = [
        (name.removesuffix("_images_per_second").replace("_", " "), f"{value:,.0f}")
        for name, value in found.items()
        if name.endswith("_images_per_second") and isinstance(value, int | float)
    ]
    return words + (table(("part alone", "images/s"), rates, (1,)) if rates else "")


def scores(lines: Sequence[Line], results: Sequence[Line], scored: Which) -> str:
    """Return the table of scores: the run's own kNN, then the lines of eval.jsonl.

    ``scored`` is the encoder that the run itself scores.
    """
    rows: list[tuple[str, ...]] = []
    known = [line for line in lines if line.get("knn_top1") is not None]
    for line in dict.fromkeys((0, len(known) - 1)) if known else ():
        at = known[line]
        name = "kNN while training" + (", untrained" if at["step"] == 0 else "")
        how = "k 200, T 0.1, validation images"
        how += ", encoder momentum" if scored == "momentum" else ""
        rows.append((name, percent(at, "_top1"), percent(at, "_top5"), f"{at['step']:,}", how, ""))
    for result in results:
        rows.append(
            (
                str(result.get("protocol", "?")),
                main_score(result),
                percent(result, "_top5"),
                f"{result['step']:,}" if isinstance(result.get("step"), int) else "",
                conditions(result),
                str(result.get("commit") or "")[:9],
            )
        )
    head = ("protocol", "top-1 or AP", "top-5", "step", "how", "commit")
    return table(head, rows, (1, 2, 3)) if rows else ""


def percent(line: Line, end: str) -> str:
    """Return the first score whose name ends so, in per cent."""
    found = (v for k, v in line.items() if k.endswith(end) and isinstance(v, int | float))
    value = next(found, None)
    return "" if value is None else f"{value:.2%}"


def main_score(line: Line) -> str:
    """Return a result's first score: top-1, or average precision."""
    return percent(line, "_top1") or percent(line, "ap")


APART = {
    "protocol",
    "step",
    "time",
    "commit",
    "command",
    "world_size",
    "origin",
    "train_images",
    "val_images",
}


def conditions(line: Line) -> str:
    """Return what a score depends on, in a line."""
    plain = (
        f"{name} {value}"
        for name, value in line.items()
        if name not in APART and isinstance(value, str | int | float) and not name.endswith(SCORES)
    )
    return ", ".join(plain)
