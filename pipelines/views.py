"""The parameters of a view, and the views of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipelines.resolution import Resolution


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
