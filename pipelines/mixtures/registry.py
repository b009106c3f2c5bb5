"""The mixtures by name, as in ``--mix`` and ``build_loader(mixture=...)``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pipelines.mixtures.base import Mixture
from pipelines.mixtures.clim import Clim, NeighborTable
from pipelines.mixtures.cross_view import CrossView
from pipelines.mixtures.image_mixture import ImageMixture
from pipelines.mixtures.imix import IMix
from pipelines.mixtures.mixmask import MixMask
from pipelines.mixtures.patchmix import PatchMix
from pipelines.mixtures.scalemix import ScaleMix
from pipelines.mixtures.sdmp import Sdmp
from pipelines.mixtures.sum import Sum
from pipelines.mixtures.unmix import UN_MIX, UnMix
from pipelines.settings import (
    CROPMIX,
    CROSS_VIEW,
    I_MIX_NAMES,
    LABEL_FREE,
    WINDOW_NAMES,
    ImConfig,
    IMixConfig,
    LabelFreeName,
    MixMaskConfig,
    PatchMixConfig,
    parts_of,
)


@dataclass(frozen=True)
class MixSettings:
    """Settings of all mixtures, of which each uses its own. Defaults are the papers'."""

    prob: float = 0.5
    """Probability of a global mixture in ``unmix``."""
    beta: float = 1.0
    """Beta(beta, beta) draws the share of Un-Mix's and i-Mix's forms."""
    per_group: bool = False
    """Draw a mixture for each group instead of one for the batch."""
    chained: bool = False
    """Draw each view's box from the share measured in the view before (released SwAV)."""
    mixmask: MixMaskConfig = field(default_factory=MixMaskConfig)
    """Settings of ``mixmask``."""
    imix: IMixConfig = field(default_factory=IMixConfig)
    """Settings of ``imix`` and ``imix-cutmix``."""
    patchmix: PatchMixConfig = field(default_factory=PatchMixConfig)
    """Settings of ``patchmix``."""
    im: ImConfig = field(default_factory=ImConfig)
    """Settings of label-free mixtures."""
    pasted_views: tuple[int, ...] = (0,)
    """Views that ``scalemix`` and ``cropmix`` change."""
    clim_global: bool = False
    """CLIM blends whole images instead of pasting a box."""
    clim_alpha: float = 2.0
    """Beta(alpha, alpha) draws the share of CLIM's anchors."""
    clim_skip: bool = False
    """CLIM leaves anchors without neighbours unmixed."""
    num_rows: int = 0
    """Rows of the data set, for CLIM's neighbour table."""


def _un_mix(name: str, settings: MixSettings) -> Mixture:
    mixture = UN_MIX[name](settings.prob, settings.beta)
    return replace(mixture, per_group=settings.per_group, chained=settings.chained)


def _clim(name: str, settings: MixSettings) -> Mixture:
    blend = UnMix(float(settings.clim_global), settings.clim_alpha, settings.per_group)
    return Clim(NeighborTable.none(settings.num_rows), blend, settings.clim_skip)


def _mixmask(name: str, settings: MixSettings) -> Mixture:
    return MixMask(per_group=settings.per_group, config=settings.mixmask)


def _imix(name: str, settings: MixSettings) -> Mixture:
    cutmix, fold = name == "imix-cutmix", settings.imix.fold
    return IMix(cutmix, settings.beta, fold, per_group=cutmix and settings.per_group)


def _label_free(name: LabelFreeName, settings: MixSettings) -> Mixture:
    return ImageMixture(name, settings.im)


def _window(name: str, settings: MixSettings) -> Mixture:
    own, pasted = CROPMIX if name == "cropmix" else (None, None)
    return ScaleMix(settings.pasted_views, own, pasted)


MIXTURES: dict[str, Callable[..., Mixture]] = {
    **dict.fromkeys(UN_MIX, _un_mix),
    "mixmask": _mixmask,
    **dict.fromkeys(I_MIX_NAMES, _imix),
    "sdmp": lambda name, settings: Sdmp(),
    "patchmix": lambda name, settings: PatchMix(settings.patchmix.patch),
    CROSS_VIEW: lambda name, settings: CrossView(settings.beta),
    **dict.fromkeys(LABEL_FREE, _label_free),
    **dict.fromkeys(WINDOW_NAMES, _window),
    "clim": _clim,
}


def create_mixture(name: str, settings: MixSettings | None = None) -> Mixture | None:
    """Return the mixture of that name, or the sum of several: ``unmix+mixmask``; None for ``none``.

    Raises:
        ValueError: there is no such mixture, a setting is out of range, or the mixtures of a sum
            exclude each other.
    """
    if name == "none":
        return None
    parts = tuple(MIXTURES[one](one, settings or MixSettings()) for one in parts_of(name))
    return parts[0] if len(parts) == 1 else Sum(parts)
