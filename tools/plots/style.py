"""One look for all figures: colours that the colour-blind tell apart, type, and vector output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#A6971C")
"""Okabe and Ito 2008, without black and with a darker yellow, which is to be seen on white."""
MARKERS = ("o", "s", "^", "D")
"""A second round of colours has another marker, and so on."""
INK, FAINT, OTHERS = "#24292f", "#6e7781", "#c4c9cf"
RIGHT, WRONG = "#0072B2", "#D55E00"
SUFFIXES = (".png", ".pdf", ".svg")
DPI = 200
FONT: dict[Any, Any] = {
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9.5,
    "legend.fontsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
}


def look(number: int) -> tuple[str, str]:
    """Return the colour and the marker of the series or class of a number."""
    return COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS) % len(MARKERS)]


NUM_LOOKS = len(COLOURS) * len(MARKERS)
"""Series that look different."""


def sheet(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes, x: str = "", y: str = "", title: str = "") -> None:
    """Label the axes, and leave out the lines that say nothing."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, loc="left")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def check_output(path: Path) -> None:
    """Refuse a file that cannot be written, before any work.

    Raises:
        ValueError: its ending is no picture's, or its folder is missing.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"--output {path} must end in {', '.join(SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"--output {path}: there is no folder {path.absolute().parent}")


def save(figure: Figure, path: Path) -> None:
    """Write the figure; the file's ending says as what. Equal figures give equal files."""
    dates = {".png": {"Software": ""}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    with rc_context(FONT | {"svg.hashsalt": "unmix"}):
        figure.savefig(path, dpi=DPI, metadata=dates[path.suffix])
