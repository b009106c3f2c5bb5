"""Types and names of the pipeline's settings; imports neither torch nor numba."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pipelines.ranges import Count, NonNegative, Positive, Range, Share, WholeNumber

Interpolation = Literal["antialias", "bicubic", "bilinear", "area"]
OnBadImage = Literal["stop", "replace"]
DevicePaths = Literal["auto", "plain", "fused"]
"""Use of hand-written GPU code: where it proves itself, never, or without a fallback."""

LabelFreeName = Literal["im", "im-global", "im-region", "cutout", "erasing"]
LABEL_FREE: tuple[LabelFreeName, ...] = get_args(LabelFreeName)
"""Mixtures that change the pixels and leave the targets unchanged."""
UN_MIX_NAMES = ("global", "region", "unmix")
"""Un-Mix's forms, of which a step takes one; ``pipelines.mixtures.unmix`` makes them."""
SOFT_TARGET_NAMES = (*UN_MIX_NAMES, "mixmask")
"""Mixtures of two targets, weighted by their shares."""
MIX_NAMES = ("none", *SOFT_TARGET_NAMES, "clim", *LABEL_FREE)

MaskKind = Literal["block", "discrete"]
"""MixMask's masks: random rectangles, or cells drawn one by one."""

Fallback = Literal["self", "nearest", "skip"]
"""CLIM's treatment of an anchor without neighbours."""
RuleName = Literal["centre", "centre-same", "ranked", "knn", "cluster", "random"]
"""CLIM's rule for the neighbours that are mixed with an anchor."""


def parts_of(mix: str) -> tuple[str, ...]:
    """Return the names of the mixtures of ``--mix``; several are joined by ``+``.

    Raises:
        ValueError: a name is unknown, or the mixtures exclude each other.

    >>> parts_of("unmix+mixmask")
    ('unmix', 'mixmask')
    """
    names = tuple(mix.split("+"))
    for name in names:
        if name not in MIX_NAMES:
            near = difflib.get_close_matches(name, MIX_NAMES, 1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {' '.join(MIX_NAMES)}"
            raise ValueError(f"--mix {mix}: no mixture {name!r}; {hint}")
    if len(names) == 1:
        return names
    for name in ("none", "clim"):
        if name in names:
            raise ValueError(f"--mix {mix}: {name} cannot be added to another mixture")
    for kind, members in (("Un-Mix's forms", UN_MIX_NAMES), ("label-free mixtures", LABEL_FREE)):
        if sum(name in members for name in names) > 1:
            raise ValueError(f"--mix {mix}: take one of {kind}: {' '.join(members)}")
    if len(set(names)) < len(names):
        raise ValueError(f"--mix {mix} names a mixture twice")
    return names


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


@dataclass(frozen=True)
class MixMaskConfig:
    """MixMask; defaults are those of its ImageNet command."""

    kind: MaskKind = "block"
    """Mask of random rectangles (block-wise masking), or of cells drawn one by one (discrete)."""
    grid: Annotated[int, Range(2)] = 8
    """Cells along each side of the mask."""
    share: Annotated[float, Range(0.05, 0.95)] = 0.5
    """Share of the mask's cells that show the row itself."""
