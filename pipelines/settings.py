"""Types and names of the pipeline's settings; imports neither torch nor numba."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from pipelines.ranges import Count, NonNegative, Positive, Share, WholeNumber

Interpolation = Literal["antialias", "bicubic", "bilinear", "area"]
OnBadImage = Literal["stop", "replace"]

LabelFreeName = Literal["im", "im-global", "im-region", "cutout", "erasing"]
LABEL_FREE: tuple[LabelFreeName, ...] = get_args(LabelFreeName)
"""Mixtures that change the pixels and leave the targets unchanged."""
UN_MIX_NAMES = (
    "global",
    "region",
    "unmix",
)
"""Mixtures of two targets; ``pipelines.mixtures.unmix`` has one for each name."""
if TYPE_CHECKING:
    UnMixName = str
else:
    UnMixName = Literal[UN_MIX_NAMES]
MixName = Literal["none", "clim"] | UnMixName | LabelFreeName

Fallback = Literal["self", "nearest", "skip"]
"""CLIM's treatment of an anchor without neighbours."""
RuleName = Literal["centre", "centre-same", "ranked", "knn", "cluster", "random"]
"""CLIM's rule for the neighbours that are mixed with an anchor."""


@dataclass(frozen=True)
class ImConfig:
    """Label-free mixtures (Image Mixture, cutout, random erasing); defaults are published."""

    g_alpha: Positive = 1.0
    """Beta(a, a) draws the share of a global round."""
    g_num: WholeNumber = 2
    """Global rounds, each with another partner."""
    g_prob: Share = 0.1
    """Probability of each global round."""
    r_beta: NonNegative = 1.0
    """Beta(b, b) draws the share that a pasted region leaves; 0: no regions."""
    r_num: WholeNumber = 2
    """Region rounds."""
    r_prob: Share = 0.1
    """Probability of each region round."""
    r_pixel_decay: NonNegative = 1.0
    """Factor on the image under the first region (1: off)."""
    partner: Literal["group", "dataset"] = "group"
    """Partners: other rows of the group, or any image of the data set, decoded for it."""
    mask_size: Count = 50
    """Side of cutout's square in pixels."""
    mask_inside: bool = False
    """Keep cutout's square inside the image."""
    mask_prob: Share = 0.1
    """Probability of cutout's or erasing's mask."""
