"""Draw a profile: the time of each stage, the throughputs, and throughput against workers."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from tools.plots import style
from tools.plots.panels import Panel, Series, draw_panel

DATA, STEP, PART = style.COLORS[0], style.COLORS[1], style.COLORS[5]
STEP_STAGES = ("forward", "backward", "optimizer")

TITLES = {
    "draw": "draw the views",
    "fetch": "fetch, all connections",
    "read": "read, out of memory",
    "read_cold": "read, off the disk",
    "decode": "decode",
    "decode_crop": "decode + crop",
    "host_to_device": "copy to the device",
    "finish": "finisher",
    "finish.convert_flip_normalise": "convert, flip, normalise",
}
"""Titles of stages; the other stages keep their names."""


def title(stage: str) -> str:
    """Return a stage's title; the parts of the augmentation are indented."""
    name = TITLES.get(stage, stage.rpartition(".")[2])
    return f"   {name}" if "." in stage else name


@style.styled
def draw_profile(result: dict[str, Any], path: Path) -> None:
    """Write the picture of a profile's JSON to ``path``."""
    sweep = result["sweep_workers"]
    widths = [1.3, 1.0, 0.9] if sweep else [1.3, 1.0]
    height = max(0.26 * len(result["stages"]) + 1.6, 4.4)
    figure = style.sheet(4.3 * sum(widths), height)
    text = textwrap.fill(result["bottleneck"], int(49 * sum(widths)))
    figure.suptitle(text, fontsize=10, x=0.01, ha="left", weight="bold")
    axes = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    _draw_stages(axes[0], result)
    _draw_rates(axes[1], result)
    if sweep:
        draw_panel(axes[2], worker_panel(result))
        axes[2].set_xticks([point["workers"] for point in sweep])
        axes[2].legend(loc="upper left", frameon=False)
    style.save(figure, path)


def worker_panel(result: dict[str, Any]) -> Panel:
    """Return a panel of the loader's throughput against its number of workers."""
    points = sorted(result["sweep_workers"], key=lambda point: point["workers"])
    counts = [point["workers"] for point in points]
    rates = [point["images_per_second"] for point in points]
    ends = [0, max(counts)]
    in_proportion = [0, rates[0] / counts[0] * max(counts)]
    series = [
        Series("loader", counts, rates, look=0, spread=[point["spread"] for point in points]),
        Series("in proportion", ends, in_proportion, "reference", look=0),
    ]
    step = result["step_images_per_second"]
    if step < 2.5 * max(rates):
        series.append(Series("step alone", ends, [step, step], "reference", look=1))
    return Panel(
        "loader alone, images/s", "workers of each process", "", tuple(series), low=0, x_low=0
    )


def _draw_stages(axes: Axes, result: dict[str, Any]) -> None:
    stages = result["stages"]
    colors = [STEP if s in STEP_STAGES else PART if "." in s else DATA for s in stages]
    milliseconds = [1000 * value for value in stages.values()]
    spread = [[1000 * value for value in result["spread"][name]] for name in stages]
    _draw_dots(axes, [title(name).strip() for name in stages], milliseconds, spread, colors)
    for label, name in zip(axes.get_yticklabels(), stages, strict=True):
        if "." in name:
            label.set(color=style.FAINT, size=8)
    axes.set_title(f"each stage alone, ms for {result['rows']} images", loc="left")
    axes.set_xlabel("blue: loader (light: a part of the finisher), orange: step", size=8)


def _draw_rates(axes: Axes, result: dict[str, Any]) -> None:
    rates = {
        "decode only": (style.OTHERS, "decode_ceiling_images_per_second"),
        "loader alone": (DATA, "loader_images_per_second"),
        "step alone": (STEP, "step_images_per_second"),
        "end to end": (style.INK, "end_to_end_images_per_second"),
    }
    known = {name: rate for name, rate in rates.items() if result[rate[1]] is not None}
    values = [result[key] for _, key in known.values()]
    spread = [result["spread"][key] for _, key in known.values()]
    _draw_dots(axes, list(known), values, spread, [color for color, _ in known.values()])
    expected = result["expected_images_per_second"]
    axes.axvline(expected, color=style.FAINT, linestyle=style.DASHES, linewidth=1, zorder=0)
    axes.set_title("source images/s", loc="left")
    machine = result["machine"]
    where = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
    wait = f"waiting for data {result['data_wait']:.1%} of the time"
    axes.set_xlabel(f"dashed: {result['expected_law']}\n{wait}\n{where}", size=8)


def _draw_dots(
    axes: Axes, names: list[str], values: list[float], spread: list[list[float]], colors: list[str]
) -> None:
    """Draw a row for each value and its spread, on a logarithmic axis."""
    least = min(value for value in values if value > 0) / 2
    shown = np.maximum(values, least)
    low, high = np.maximum(spread, least).T
    for place, color in enumerate(colors):
        axes.hlines(place, low[place], high[place], color=color, linewidth=2)
        axes.plot(shown[place], place, "o", color=color, markersize=7)
        axes.annotate(
            figures_of(values[place]) if values[place] > 0 else "< noise",
            (max(shown[place], high[place]), place),
            (7, 0),
            textcoords="offset points",
            va="center",
            size=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    style.tidy(axes)
    style.name_rows(axes, names)
    axes.grid(axis="x", visible=False)
    axes.set_xscale("log")
    axes.set_xlim(least / 1.3, high.max() * (high.max() / least) ** 0.16 * 1.2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.spines["left"].set_visible(False)


def figures_of(value: float) -> str:
    """Return a number with three significant digits, or with all digits before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
