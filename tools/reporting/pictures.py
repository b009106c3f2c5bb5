"""The report's pictures, embedded in the page, with descriptions in words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from tools.plots.panels import Panel, draw_panels
from tools.plots.style import svg_data_uri
from tools.plots.thumbnails import data_uri

CHART = (3.9, 2.6)
"""Size of a chart in inches."""
MOST_POINTS = 400
"""Largest number of points of a curve, about a chart's width in pixels."""
WIDE = 1600
"""Largest width of a picture in pixels; wider ones are reduced."""
LARGE = 700_000
"""Size in bytes above which a picture is compressed more."""


@dataclass(frozen=True)
class Picture:
    """An image as a ``data:`` URI."""

    source: str
    alt: str
    """Description in words."""
    width: int
    """Width in CSS pixels."""
    height: int
    title: str = ""


def of_figure(figure: Figure, alt: str, title: str = "") -> Picture:
    """Return a figure as SVG."""
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    return Picture(svg_data_uri(figure), alt, width, height, title)


def of_image(image: Image.Image, alt: str) -> Picture:
    """Return a small image."""
    return Picture(data_uri(image), alt, *image.size)


def of_panel(panel: Panel) -> Picture:
    """Return a chart of curves; its description gives the first and last value of each."""
    thinned = tuple(series.thinned(MOST_POINTS) for series in panel.series)
    figure = draw_panels(
        [replace(panel, title="", series=thinned)], size=CHART, shared_legend=len(thinned) > 1
    )
    ends = [(series.name, series.points[1]) for series in panel.series]
    values = "; ".join(f"{name} from {y[0]:.4g} to {y[-1]:.4g}" for name, y in ends if len(y))
    return of_figure(figure, f"{panel.title} against {panel.x_label}: {values}", panel.title)


def of_file(path: Path, alt: str) -> Picture | None:
    """Return an image file, reduced if it is large, or None if it cannot be read."""
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (OSError, ValueError):
        return None
    if image.width > WIDE:
        size = WIDE, round(image.height * WIDE / image.width)
        image = image.resize(size, Image.Resampling.LANCZOS)
    sources = (data_uri(image, quality) for quality in (85, 65, 40, 20))
    source = next((s for s in sources if len(s) < LARGE), None) or data_uri(image, 10)
    return Picture(source, alt, *image.size)
