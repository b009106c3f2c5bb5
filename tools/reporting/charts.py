"""Charts as inline SVG: sharp at any size, coloured by the page's own style, dark or light."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tools.reporting.markup import attribute, text

WIDTH, HEIGHT = 380, 236
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 10, 36
MAP = 380
COLOURS = 7
"""Colours of the page's style, c0 to c6."""
SHAPES = 3
MOST_POINTS = 400
"""Points of a line: more of them than pixels are not seen."""


@dataclass(frozen=True)
class Series:
    """A line: its name, its points, and whether it is only there for comparison."""

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    dashed: bool = False


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return at most ``most`` + 1 round numbers, 1, 2 or 5 times a power of ten apart."""
    if not high > low:
        high, low = low + (abs(low) * 0.1 or 1.0), low - (abs(low) * 0.1 or 1.0)
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    gap = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    first, last = math.ceil(low / gap - 1e-9), math.floor(high / gap + 1e-9)
    return [round(n * gap, 12) + 0.0 for n in range(first, last + 1)]


def number(value: float) -> str:
    """Return a tick's number, short."""
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        mantissa, power = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(power)}"
    return f"{value:,.6g}"


def lines(
    title: str, series: Sequence[Series], x_label: str, *, low: float | None = None,
    high: float | None = None,
) -> str:  # fmt: skip
    """Return a chart of lines; points that are not finite are left out. No points: no chart."""
    kept = [_thinned(one) for one in series]
    kept = [one for one in kept if len(one.x)]
    if not kept:
        return ""
    xs, ys = (np.concatenate([getattr(one, a) for one in kept]) for a in "xy")
    x0, x1 = _range(float(xs.min()), float(xs.max()), None, None, 0.0)
    y0, y1 = _range(float(ys.min()), float(ys.max()), low, high, 0.06)

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    said = "; ".join(f"{one.name} from {one.y[0]:.4g} to {one.y[-1]:.4g}" for one in kept)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="'
             f'{attribute(f"{title} against {x_label}: {said}")}">']  # fmt: skip
    for value in ticks(y0, y1):
        _, y = at(x0, value)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(value)}</text>'
        )
    for value in ticks(x0, x1):
        x, _ = at(value, y0)
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - 20}" text-anchor="middle">{number(value)}</text>'
        )
    parts.append(f'<text x="{(WIDTH + LEFT) / 2:.0f}" y="{HEIGHT - 4}" text-anchor="middle">'
                 f"{text(x_label)}</text>")  # fmt: skip
    for place, one in enumerate(kept):
        points = [at(float(x), float(y)) for x, y in zip(one.x, one.y, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        kind = f"l c{place % COLOURS}" + (" dashed" if one.dashed else "")
        parts.append(f'<polyline class="{kind}" points="{path}"/>')
        if len(points) <= 25 and not one.dashed:
            parts += [f'<circle class="d c{place % COLOURS}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>'
                      for x, y in points]  # fmt: skip
    return "".join([*parts, "</svg>", legend([one.name for one in kept])])


def legend(names: Sequence[str]) -> str:
    """Return the key of a chart's colours; a chart of one line needs none."""
    if len(names) < 2:
        return ""
    keys = (f'<li class="c{i % COLOURS}">{text(name)}</li>' for i, name in enumerate(names))
    return f'<ul class="key">{"".join(keys)}</ul>'


def _thinned(one: Series) -> Series:
    """Return a line's finite points, means of neighbouring ones where there are too many."""
    known = np.isfinite(one.y)
    x, y = one.x[known], one.y[known]
    if len(x) > MOST_POINTS:
        parts = np.array_split(np.arange(len(x)), MOST_POINTS)
        x = np.array([x[part].mean() for part in parts])
        y = np.array([y[part].mean() for part in parts])
    return Series(one.name, x, y, one.dashed)


def _range(
    low: float, high: float, at_least: float | None, at_most: float | None, margin: float
) -> tuple[float, float]:
    room = (high - low) * margin or abs(high) * margin or margin
    first = low - room if at_least is None else min(at_least, low)
    last = high + room if at_most is None else max(at_most, high)
    return first, last if last > first else first + 1.0


def scatter(
    title: str, places: NDArray[np.float32], look: NDArray[np.int64], names: Sequence[str]
) -> str:
    """Return a map of points (n, 2); ``look`` (n,) numbers their classes, -1: none of ``names``."""
    low, high = places.min(axis=0), places.max(axis=0)
    span = float(max(*(high - low), 1e-12))
    centred = (places - (low + high) / 2) / span
    side = MAP / 2 + centred * np.array([1, -1]) * (MAP - 16)
    parts = [f'<svg class="map" viewBox="0 0 {MAP} {MAP}" role="img" aria-label="'
             f'{attribute(title)}">']  # fmt: skip
    for which in (-1, *range(len(names))):
        colour = f"c{which % COLOURS}" if which >= 0 else "none"
        marks = "".join(_mark(x, y, which) for x, y in side[look == which].tolist())
        if marks:
            parts.append(f'<path class="p {colour}" d="{marks}"/>')
    return "".join([*parts, "</svg>"])


def _mark(x: float, y: float, which: int) -> str:
    """Return the outline of a point: a circle, a square, a triangle for each round of colours."""
    shape, r = max(which, 0) // COLOURS % SHAPES, 2.7
    if shape == 1:
        return f"M{x - r:.1f} {y - r:.1f}h{2 * r:.1f}v{2 * r:.1f}h-{2 * r:.1f}z"
    if shape == 2:
        return f"M{x:.1f} {y - 1.3 * r:.1f}l{1.2 * r:.1f} {2.2 * r:.1f}h-{2.4 * r:.1f}z"
    return f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r:.1f} 0a{r} {r} 0 1 0-{2 * r:.1f} 0"


def map_key(names: Sequence[str], others: int) -> str:
    """Return the key of a map's looks."""
    keys = []
    for which, name in enumerate(names):
        keys.append(f'<li class="m">{_key_mark(which)}{text(name)}</li>')
    if others:
        keys.append(f'<li class="m">{_key_mark(-1)}{others} other classes</li>')
    return f'<ul class="key">{"".join(keys)}</ul>' if keys else ""


def _key_mark(which: int) -> str:
    colour = f"c{which % COLOURS}" if which >= 0 else "none"
    drawn = f'<path class="p {colour}" d="{_mark(5, 5, which)}"/>'
    return f'<svg viewBox="0 0 10 10" aria-hidden="true">{drawn}</svg>'
