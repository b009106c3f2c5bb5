"""A picture of some scored images with the true boxes and those found."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from tools.evaluation.detection.examples import Examples, Objects
from tools.evaluation.detection.score import Detections

ACROSS, INCHES, DPI = 4, 2.6, 100
SURE = 0.3
"""Boxes found with at least this score are drawn, at most ``MOST`` an image, the surest first."""
MOST = 10


def draw_found(
    examples: Examples, found: list[Detections], title: str, path: Path, images: int = 8
) -> None:
    """Write the first ``images`` pictures to ``path``: true boxes white, found ones by class."""
    images = min(images, len(examples))
    down = math.ceil(images / ACROSS)
    figure = Figure(figsize=(ACROSS * INCHES, down * INCHES + 1.0), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    shown: set[int] = set()
    for place in range(images):
        axes = figure.add_subplot(down, ACROSS, place + 1)
        axes.imshow(examples.pixels(place))
        axes.axis("off")
        _draw_true(axes, examples.objects[place])
        shown |= _draw_sure(axes, found[place], examples.classes)
    figure.suptitle(title, fontsize=11)
    shown |= {int(label) for o in examples.objects[:images] for label in o.labels}
    lines = [Line2D([], [], color="0.25", lw=2.5, ls="--", label="true box")]
    lines.append(Line2D([], [], lw=0, label=f"found, score {SURE} or more:"))
    lines += [
        Line2D([], [], color=_colour(label), lw=2.5, label=examples.classes[label])
        for label in sorted(shown)[:12]
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=7, fontsize=9, frameon=False)
    figure.savefig(path)


def _draw_true(axes: Axes, objects: Objects) -> None:
    for left, top, right, bottom in objects.boxes:
        for colour, style in (("0.25", "-"), ("white", "--")):
            axes.add_patch(
                Rectangle(
                    (left, top), right - left, bottom - top, fill=False, ec=colour, lw=2, ls=style
                )
            )


def _draw_sure(axes: Axes, found: Detections, classes: tuple[str, ...]) -> set[int]:
    """Draw what was found with some certainty; return its labels."""
    sure = [i for i in range(len(found.scores)) if found.scores[i] >= SURE][:MOST]
    for i in sure:
        left, top, right, bottom = found.boxes[i]
        label = int(found.labels[i])
        colour = _colour(label)
        axes.add_patch(
            Rectangle((left, top), right - left, bottom - top, fill=False, ec=colour, lw=2)
        )
        says = f"{classes[label]} {found.scores[i]:.2f}"
        box = {"facecolor": colour, "edgecolor": "none", "pad": 1}
        axes.text(
            left + 2, top + 2, says, fontsize=7, color="white", va="top", clip_on=True, bbox=box
        )
    return {int(found.labels[i]) for i in sure}


def _colour(label: int) -> str:
    return f"C{label % 10}"
