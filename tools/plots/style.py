"""The style of all figures: color-blind-safe colors, fonts, vector output."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tools.plots import fonts

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#A6971C")
"""The palette of Okabe and Ito 2008, without black and with a darker yellow, visible on white."""
MARKERS = ("o", "s", "^", "D")
"""Markers; each repetition of the colors has the next marker."""
NUM_LOOKS = len(COLORS) * len(MARKERS)
"""Number of distinct pairs of color and marker."""
INK, FAINT, OTHERS = "#24292f", "#6e7781", "#c4c9cf"
RIGHT, WRONG = "#0072B2", "#D55E00"
DASHES = (0, (4, 3))
SUFFIXES = (".png", ".pdf", ".svg")
DPI = 200
STYLE: dict[Any, Any] = {
    "font.family": list(fonts.families()),
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9.5,
    "legend.fontsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.parse_math": False,  # names of runs and classes may hold dollar signs
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
    "svg.hashsalt": "unmix",  # equal figures give equal files
}
NO_DATES = {".png": {"Software": ""}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}

styled = rc_context(STYLE)
"""Decorator of the drawing functions, which applies this style."""


def look(number: int) -> tuple[str, str]:
    """Return the color and the marker of the series or class with this number."""
    return COLORS[number % len(COLORS)], MARKERS[number // len(COLORS) % len(MARKERS)]


def sheet(width: float, height: float) -> Figure:
    """Return an empty figure of ``width`` times ``height`` inches."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes, x: str = "", y: str = "", title: str = "") -> None:
    """Label the axes, add a faint grid, and remove the upper and the right spine."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, loc="left")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def name_rows(axes: Axes, names: list[str]) -> None:
    """Turn the vertical axis into named rows, with the first row at the top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def legend(figure: Figure, axes: Axes, **options: Any) -> None:
    """Put the legend of one axes below the figure, in as many columns as fit."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        width_of_label = 0.45 + 0.072 * max(map(len, labels))  # inches
        columns = max(1, min(len(labels), int(figure.get_figwidth() / width_of_label)))
        figure.legend(
            handles, labels, loc="outside lower center", ncols=columns, frameon=False, **options
        )


def check_output(path: Path, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Check that a picture can be written to ``path``, before any work.

    Raises:
        ValueError: the suffix is not one of ``suffixes``, or the folder does not exist.
    """
    if path.suffix not in suffixes:
        raise ValueError(f"--output {path} must end in {', '.join(suffixes)}")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"--output {path}: there is no folder {path.absolute().parent}")


@styled
def save(figure: Figure, path: Path) -> None:
    """Write the figure in the format of the file's suffix; equal figures give equal files."""
    fonts.make_legible(figure)
    figure.savefig(path, metadata=NO_DATES[path.suffix])


@styled
def svg_data_uri(figure: Figure) -> str:
    """Return the figure as an SVG ``data:`` URI with a transparent background."""
    fonts.make_legible(figure)
    file = io.BytesIO()
    figure.savefig(file, format="svg", transparent=True, metadata=NO_DATES[".svg"])
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode()
