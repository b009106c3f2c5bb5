"""The parameters of a view, and the views of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Annotated

from pipelines.ranges import NonNegative, Positive, Range, Share, check_ranges
from pipelines.resolution import Resolution

Portion = Annotated[float, Range(0, 1, above=True)]
"""A share that is not empty."""
MOST_HUE = 0.5
"""Largest strength of the hue jitter, in turns of the colour circle."""
MOST_OPERATIONS, MOST_LEVEL = 5, 10
"""Most operations of RandAugment in a view, and their largest level."""
LENGTHS = {"scale": 2, "ratio": 2, "blur_sigma": 2, "jitter": 4, "rand_augment": 3}
"""Numbers of a view that are several."""


@dataclass(frozen=True)
class View:
    """One random view of an image. Probabilities are per row; 0 switches an operation off."""

    size: int
    """Side of the square result in pixels."""
    scale: tuple[float, float] = (0.2, 1.0)
    """Share of the image's area that the crop covers."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of the crop, drawn uniformly in its logarithm."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    """Strength of brightness, contrast, saturation and hue jitter, applied in random order."""
    jitter_prob: float = 0.8
    """Probability of the colour jitter."""
    gray: float = 0.2
    """Probability of grayscale."""
    gray_first: bool = False
    """Grayscale before the jitter (MoCo v1) instead of after it."""
    blur: float = 0.0
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's standard deviation in pixels."""
    solarize: float = 0.0
    """Probability of solarization: values of one half and more are inverted."""
    vertical_flip: float = 0.0
    """Probability of a vertical flip."""
    rotate90: float = 0.0
    """Probability of a rotation by 0, 90, 180 or 270 degrees, each as likely."""
    rand_augment: tuple[float, float, float] = (0.0, 10.0, 0.5)
    """RandAugment after all others: operations (0: off), level of 0 to 10, its deviation."""

    def __post_init__(self) -> None:
        numbers = {f.name: getattr(self, f.name) for f in fields(ViewOverrides)}
        for name, value in numbers.items():
            numbers[name] = tuple(value) if isinstance(value, list) else value
        ViewOverrides(**numbers).check("View: ")


@dataclass(frozen=True)
class ViewOverrides:
    """Numbers of a view that replace those of a published augmentation; None keeps its number."""

    scale: tuple[Portion, Portion] | None = None
    """Smallest and largest share of the image's area that a crop covers, as 0.2 1."""
    ratio: tuple[Positive, Positive] | None = None
    """Smallest and largest width over height of a crop, as 0.75 1.33."""
    flip: Share | None = None
    """Probability of a horizontal flip."""
    vertical_flip: Share | None = None
    """Probability of a vertical flip; no published augmentation has it."""
    rotate90: Share | None = None
    """Probability of a rotation by 0, 90, 180 or 270 degrees, each as likely."""
    jitter: tuple[NonNegative, NonNegative, NonNegative, NonNegative] | None = None
    """Strength of brightness, contrast, saturation and hue jitter, as 0.4 0.4 0.2 0.1."""
    jitter_prob: Share | None = None
    """Probability of the colour jitter."""
    gray: Share | None = None
    """Probability of grayscale."""
    blur: Share | None = None
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[Positive, Positive] | None = None
    """Smallest and largest standard deviation of the blur in pixels, as 0.1 2."""
    solarize: Share | None = None
    """Probability of solarization: values of one half and more are inverted."""
    rand_augment: tuple[NonNegative, NonNegative, NonNegative] | None = None
    """RandAugment at the end: operations (0: none), their level and its deviation, as 2 10 0.5."""

    def check(self, prefix: str) -> None:
        """Refuse numbers out of range, ranges upside down, and a hue beyond half a turn.

        Raises:
            ValueError: ``prefix`` and the field's name make the flag that the text names.
        """
        check_ranges(self, prefix)
        for name, length in LENGTHS.items():
            value = getattr(self, name)
            if value is not None and not (isinstance(value, tuple) and len(value) == length):
                raise ValueError(f"{prefix}{name.replace('_', '-')} takes {length} numbers")
        for name in ("scale", "ratio", "blur_sigma"):
            pair = getattr(self, name)
            if pair is not None and pair[0] > pair[1]:
                flag = prefix + name.replace("_", "-")
                raise ValueError(f"{flag} {pair[0]:g} {pair[1]:g}: the smaller number comes first")
        if self.jitter is not None and self.jitter[3] > MOST_HUE:
            raise ValueError(
                f"{prefix}jitter {' '.join(f'{x:g}' for x in self.jitter)}: the last, hue, is at "
                f"most {MOST_HUE}, half the colour circle"
            )
        if self.rand_augment is not None:
            count, level, _ = self.rand_augment
            if count % 1 or count > MOST_OPERATIONS or level > MOST_LEVEL:
                raise ValueError(
                    f"{prefix}rand-augment {' '.join(f'{x:g}' for x in self.rand_augment)}: take 0 "
                    f"to {MOST_OPERATIONS} operations, and a level of 0 to {MOST_LEVEL}"
                )

    def apply(self, view: View) -> View:
        """Return the view with the numbers that are set."""
        given = {f.name: getattr(self, f.name) for f in fields(ViewOverrides)}
        return replace(view, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class ViewPlan:
    """The views of every step of a run."""

    views: tuple[View, ...]
    """Views at their largest side; copies at other sides come last."""
    mixed: tuple[int, ...] = (0,)
    """Views that a mixture mixes, each before its copies; label-free mixtures change all views."""
    copies: Mapping[int, int] = field(default_factory=dict)
    """Copies of a view at another side: copy -> original."""
    resolution: Resolution | None = None
    """Schedule of the side of the largest views; None: constant."""

    def at(self, step: int) -> tuple[View, ...]:
        """Return the views with the sides they have in a step."""
        if self.resolution is None:
            return self.views
        return with_side(self.views, self.resolution.side(step))


def with_side(views: Sequence[View], side: int) -> tuple[View, ...]:
    """Return the views, those of the largest side with ``side`` instead."""
    largest = max(view.size for view in views)
    return tuple(replace(v, size=side) if v.size == largest else v for v in views)


COLUMNS = [
    *("view", "side", "scale", "ratio", "flip", "vertical", "rotate90"),
    *("jitter", "jitter-prob", "gray", "blur", "sigma", "solarize", "rand-augment"),
]
"""Columns of ``table_of``."""


def table_of(views: Sequence[View]) -> list[str]:
    """Return the numbers of all views as lines of text; neighbours that are equal share a line."""
    rows, first = [COLUMNS], 0
    for number, view in enumerate(views, 1):
        if number < len(views) and views[number] == view:
            continue
        label = str(first) if first == number - 1 else f"{first}-{number - 1}"
        rows.append([label, *_cells(view)])
        first = number
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _cells(view: View) -> list[str]:
    """Return a view's cells in the order of ``COLUMNS``."""
    numbers: list[float | tuple[float, ...]] = [view.size, view.scale, view.ratio, view.flip]
    numbers += [view.vertical_flip, view.rotate90, view.jitter, view.jitter_prob, view.gray]
    numbers += [view.blur, view.blur_sigma, view.solarize]
    numbers += [view.rand_augment if view.rand_augment[0] else 0]
    return [" ".join(f"{x:.3g}" for x in (n if isinstance(n, tuple) else (n,))) for n in numbers]
