"""Mixed Barlow Twins' mixture, of two views: which method takes it, and its weight."""

from __future__ import annotations

from models.settings.barlow import BarlowConfig
from pipelines.settings import CROSS_VIEW
from tools.config.config import Config


def check_across(config: Config) -> None:
    """Refuse the mixture without a loss for it, and its weight without the mixture.

    Raises:
        ValueError: naming the flags.
    """
    if CROSS_VIEW in config.mixes:
        if config.method != "barlow":
            raise ValueError(
                f"--mix {CROSS_VIEW} blends rows of two views for a regularizer of --method "
                f"barlow; --method {config.method} takes --mix unmix, or --mix mixmask"
            )
        return
    if config.method != "barlow":
        return
    weight = config.chosen.mix_weight
    if weight != BarlowConfig().mix_weight:
        raise ValueError(
            f"--barlow.mix-weight {weight:g} weighs the term of --mix {CROSS_VIEW}, and --mix is "
            f"{config.mix}"
        )
