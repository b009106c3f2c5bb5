"""The picture of a profile: what each stage takes, the rates, and the rate against workers."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from tools.profiling.bottleneck import number

DATA, PART, STEP, TOGETHER, CEILING = "#3b75af", "#a9c5e2", "#d1702c", "#3f3f3f", "#b8b8b8"
STEP_STAGES = ("forward", "backward", "optimizer")
DPI = 120

TITLES = {
    "draw": "draw the views",
    "read": "read, out of memory",
    "read_cold": "read, off the disk",
    "decode": "decode",
    "decode_crop": "decode + crop",
    "host_to_device": "copy to the device",
    "finish": "finisher",
    "finish.convert_flip_normalise": "convert, flip, normalise",
}
"""What people read for a stage; the others are called by their own name."""


def title(stage: str) -> str:
    """Return a stage's name for people; operations of the finisher are set in."""
    name = TITLES.get(stage, stage.rpartition(".")[2])
    return f"   {name}" if "." in stage else name


def draw_profile(result: dict[str, Any], path: Path) -> None:
    """Write the picture of a profile's JSON to ``path``."""
    sweep = result["sweep_workers"]
    widths = [1.3, 1.0, 0.9] if sweep else [1.3, 1.0]
    height = max(0.26 * len(result["stages"]) + 1.6, 4.4)
    figure = Figure(figsize=(4.3 * sum(widths), height), layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    text = textwrap.fill(result["bottleneck"], int(49 * sum(widths)))
    figure.suptitle(text, fontsize=10, x=0.01, ha="left", weight="bold")
    axes = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    _stages(axes[0], result)
    _rates(axes[1], result)
    if sweep:
        _sweep(axes[2], result)
    figure.savefig(path)


def _whiskers(middle: list[float], spread: list[list[float]]) -> list[list[float]]:
    pairs = list(zip(middle, spread, strict=True))
    return [[max(m - s[0], 0) for m, s in pairs], [max(s[1] - m, 0) for m, s in pairs]]


def _dots(
    axes: Axes, names: list[str], values: list[float], spread: list[list[float]], colours: list[str]
) -> None:
    """A dot a line with its spread, on a logarithmic axis: parts differ a thousandfold."""
    least = min(v for v in values if v > 0) / 2
    shown = [max(v, least) for v in values]
    spread = [[max(low, least), max(high, least)] for low, high in spread]
    errors = _whiskers(shown, spread)
    for place, colour in enumerate(colours):
        axes.axhline(place, color="#e6e6e6", linewidth=0.8, zorder=0)
        left, right = [errors[0][place]], [errors[1][place]]
        axes.errorbar(
            shown[place], place, xerr=[left, right], color=colour, marker="o", markersize=7,
            elinewidth=2, capsize=0,
        )  # fmt: skip
        axes.annotate(
            number(values[place]) if values[place] > 0 else "< noise",
            (shown[place] + errors[1][place], place),
            (7, 0),
            textcoords="offset points",
            va="center",
            size=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    axes.set_yticks(range(len(names)), names, size=9)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xscale("log")
    most = max(high for _, high in spread)
    axes.set_xlim(least / 1.3, most * (most / least) ** 0.16 * 1.2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    _plain(axes)
    axes.spines["left"].set_visible(False)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _stages(axes: Axes, result: dict[str, Any]) -> None:
    stages = result["stages"]
    colours = [STEP if s in STEP_STAGES else PART if "." in s else DATA for s in stages]
    milliseconds = [1000 * value for value in stages.values()]
    spread = [[1000 * value for value in result["spread"][name]] for name in stages]
    _dots(axes, [title(name).strip() for name in stages], milliseconds, spread, colours)
    for label, name in zip(axes.get_yticklabels(), stages, strict=True):
        if "." in name:
            label.set(color="#777777", size=8)
    axes.set_title(f"each stage alone, ms for {result['rows']} images", size=9, loc="left")
    axes.set_xlabel("blue: loader (light: a part of the finisher), orange: step", size=8)


def _rates(axes: Axes, result: dict[str, Any]) -> None:
    rates = {
        "decode only": (CEILING, "decode_ceiling_images_per_second"),
        "loader alone": (DATA, "loader_images_per_second"),
        "step alone": (STEP, "step_images_per_second"),
        "end to end": (TOGETHER, "end_to_end_images_per_second"),
    }
    known = {name: rate for name, rate in rates.items() if result[rate[1]] is not None}
    values = [result[key] for _, key in known.values()]
    spread = [result["spread"][key] for _, key in known.values()]
    _dots(axes, list(known), values, spread, [colour for colour, _ in known.values()])
    expected = result["expected_images_per_second"]
    axes.axvline(expected, color="#777777", linestyle=(0, (4, 3)), linewidth=1, zorder=0)
    axes.set_title("source images/s", size=9, loc="left")
    machine = result["machine"]
    where = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
    wait = f"waiting for data {result['data_wait']:.1%} of the time"
    axes.set_xlabel(f"dashed: {result['expected_law']}\n{wait}\n{where}", size=8)


def _sweep(axes: Axes, result: dict[str, Any]) -> None:
    points = sorted(result["sweep_workers"], key=lambda point: point["workers"])
    counts = [point["workers"] for point in points]
    rates = [point["images_per_second"] for point in points]
    errors = _whiskers(rates, [point["spread"] for point in points])
    axes.errorbar(counts, rates, yerr=errors, color=DATA, marker="o", capsize=3, label="loader")
    line = [0, rates[0] / counts[0] * max(counts)]
    axes.plot([0, max(counts)], line, color=DATA, linestyle=":", lw=1, label="in proportion")
    step = result["step_images_per_second"]
    if step < 2.5 * max(rates):
        axes.axhline(step, color=STEP, linestyle="--", linewidth=1, label="step alone")
    axes.set_xticks(counts)
    axes.set_xlim(0, max(counts) * 1.08)
    axes.set_ylim(0, None)
    axes.tick_params(labelsize=8)
    axes.set_xlabel("workers of each process", size=8)
    axes.set_title("loader alone, images/s", size=9, loc="left")
    axes.legend(fontsize=8, loc="upper left")
    _plain(axes)
