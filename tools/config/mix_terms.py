"""Whether the terms of mixtures are added to the clean term, or replace it: ``--mix-terms``."""

from __future__ import annotations

from models.methods import METHODS
from models.settings.base import MixTerms
from pipelines.settings import I_MIX_NAMES, SOFT_TARGET_NAMES
from tools.config.config import Config


def is_i_mix(config: Config) -> bool:
    """Return whether i-Mix is the one mixture of two targets, so that its losses are the run's."""
    soft = {*config.mixes} & {*SOFT_TARGET_NAMES}
    return bool(soft) and soft <= {*I_MIX_NAMES}


def published_terms(config: Config) -> MixTerms:
    """Return whether the mixture's paper keeps the clean term; a sum of mixtures keeps it."""
    return "replace" if is_i_mix(config) else "add"


def check_terms(config: Config, soft: set[str]) -> None:
    """Refuse to leave the clean term out where there is no other, or where a method needs it.

    Raises:
        ValueError: naming the flags.
    """
    if config.mix_terms != "replace":
        return
    if not soft:
        way = "take --clim.mode replace" if config.mix == "clim" else "leave it out"
        raise ValueError(
            f"--mix-terms replace: --mix {config.mix} has no loss term of its own, so nothing "
            f"would be left; {way}"
        )
    if not config.chosen.replaces_clean:
        able = ", ".join(name for name, each in METHODS.items() if each.settings.replaces_clean)
        default = " (its default)" if is_i_mix(config) else ""
        raise ValueError(
            f"--mix {config.mix} with --mix-terms replace{default} leaves out the clean term, "
            f"which --method {config.method} cannot ({able} can): --mix-terms add keeps it"
        )
