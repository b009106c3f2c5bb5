"""From settings to the mixture of a run, and to the loss of CLIM's."""

from __future__ import annotations

from models.losses.clim import ClimLoss
from pipelines.mixtures.base import Mixture
from pipelines.mixtures.registry import MixSettings, create_mixture
from pipelines.settings import PatchMixConfig
from tools.config.among_mixtures import patch_of
from tools.config.config import Config, ResolvedConfig
from tools.config.resolve import clim_terms


def mixture_of(
    config: ResolvedConfig, num_rows: int = 0, *, chained: bool = False
) -> Mixture | None:
    """Return the mixture of the settings; CLIM's without neighbors yet."""
    settings = MixSettings(
        prob=config.mix_prob,
        beta=config.mix_beta,
        per_group=config.mix_draw == "group",
        chained=chained,
        mixmask=config.mixmask,
        imix=config.imix,
        patchmix=PatchMixConfig(patch_of(config)),
        im=config.im,
        pasted_views=config.chosen.pasted_views,
        clim_global=config.clim.kind == "mixup",
        clim_alpha=config.clim.alpha,
        clim_skip=config.clim.fallback == "skip",
        num_rows=num_rows,
    )
    return create_mixture(config.mix, settings)


def clim_loss(config: Config) -> ClimLoss | None:
    """Return CLIM's loss, if the mixture is CLIM's."""
    terms = clim_terms(config)
    return None if terms is None else ClimLoss(terms.mode, terms.weight, terms.denominator)
