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
UN_MIX_NAMES = (
    "global",
    "region",
    "unmix",
)
"""Un-Mix's forms, of which a step takes one; ``pipelines.mixtures.unmix`` makes them."""
WINDOW_NAMES = ("scalemix", "cropmix")
"""Mixtures with another window of the same image; they leave the targets unchanged too."""
CROPMIX: tuple[tuple[float, float], tuple[float, float]] = ((0.2, 0.6), (0.6, 1.0))
"""Shares of the image's area that CropMix's view covers, and the window pasted into it."""
I_MIX_NAMES = ("imix", "imix-cutmix")
"""i-Mix's forms; ``pipelines.mixtures.imix`` makes them."""
AMONG_MIXTURES = ("sdmp", "patchmix")
"""Mixtures that are queries and keys: their loss compares mixtures with mixtures."""
PATCHMIX_ROWS = 3
"""Rows of PatchMix's smallest group: of two, the rows before and after would be the same."""
CROSS_VIEW = "mixed-barlow"
"""The mixture of rows of two views, which Barlow Twins alone has a loss for."""
SOFT_TARGET_NAMES = (*UN_MIX_NAMES, "mixmask", *I_MIX_NAMES, *AMONG_MIXTURES, CROSS_VIEW)
"""Mixtures of two targets, weighted by their shares."""
PERMUTED_NAMES = (*I_MIX_NAMES, "patchmix")
"""Those whose partners are a permutation of the group; in the others partners are mutual."""
MIX_NAMES = ("none", *SOFT_TARGET_NAMES, "clim", *LABEL_FREE, *WINDOW_NAMES)

BLOCK_CELLS = 4
"""Cells of MixMask's smallest block: fewer than 4 x 4 cells cannot be drawn as blocks."""
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
    if "" in names and len(names) > 1:
        raise ValueError(f"--mix {mix}: a name is missing before or after +")
    for name in names:
        if name not in MIX_NAMES:
            near = difflib.get_close_matches(name.lower(), MIX_NAMES, 1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {' '.join(MIX_NAMES)}"
            raise ValueError(f"--mix {mix}: no mixture {name!r}; {hint}")
    if len(names) == 1:
        return names
    alone = {
        "none": "it is no mixture",
        "clim": "its views hold neighbours that others would mix",
        **dict.fromkeys(AMONG_MIXTURES, "its loss takes the place of every other"),
    }
    for name, reason in alone.items():
        if name in names:
            raise ValueError(
                f"--mix {mix}: {name} cannot be added to another mixture, because {reason}"
            )
    alternatives = {
        "Un-Mix's forms": UN_MIX_NAMES,
        "i-Mix's forms": I_MIX_NAMES,
        "the label-free mixtures": (*LABEL_FREE, *WINDOW_NAMES),
    }
    for kind, members in alternatives.items():
        if sum(name in members for name in names) > 1:
            raise ValueError(f"--mix {mix}: take only one of {kind}: {' '.join(members)}")
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

    def check(self) -> None:
        """Refuse blocks on a grid that is too coarse for them.

        Raises:
            ValueError: naming the flags.
        """
        if self.kind == "block" and self.grid < BLOCK_CELLS:
            raise ValueError(
                f"--mixmask.kind block draws rectangles of {BLOCK_CELLS} cells and more, so "
                f"--mixmask.grid {self.grid} is too coarse: take {BLOCK_CELLS} or more, or "
                "--mixmask.kind discrete"
            )


@dataclass(frozen=True)
class IMixConfig:
    """i-Mix; --mix-beta is the b of its Beta(b, b)."""

    fold: bool = True
    """Weigh a row at least as much as its partner: lam becomes max(lam, 1 - lam)."""


@dataclass(frozen=True)
class PatchMixConfig:
    """PatchMix."""

    patch: WholeNumber = 0
    """Side of a patch in pixels; 0: the ViT's own, or a fourteenth of a view's side."""
