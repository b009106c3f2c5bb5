"""Mixtures that are queries and keys, SDMP and PatchMix: what they need of a run."""

from __future__ import annotations

import re

from models.methods import METHODS
from pipelines.settings import AMONG_MIXTURES, PATCHMIX_ROWS
from tools.config.config import Config, ResolvedConfig
from tools.config.init import arguments


def patch_of(config: ResolvedConfig) -> int:
    """Return the side of PatchMix's patches: as set, or the ViT's own; 0: a share of the side."""
    named = re.search(r"patch(\d+)", config.backbone)
    given = arguments(config.backbone_args).get("patch_size") or (named and named[1]) or 0
    return config.patchmix.patch or int(given)


def check_among_mixtures(config: Config) -> None:
    """Refuse SDMP and PatchMix where there is no loss for them, or too few rows.

    Raises:
        ValueError: naming the flags.
    """
    if config.mix not in AMONG_MIXTURES:
        return
    able = [name for name, each in METHODS.items() if each.settings.takes_mixed_keys]
    if config.method not in able:
        raise ValueError(
            f"--mix {config.mix} compares mixtures with mixtures, a loss that --method "
            f"{config.method} has not: --method {' or '.join(able)}, or --mix unmix"
        )
    if config.resolutions:
        raise ValueError(f"--mix {config.mix} takes queries of one side: leave --resolutions out")
    if config.mix_draw == "group":
        raise ValueError(
            f"--mix-draw group: --mix {config.mix} has the draws of its paper, "
            f"{'a share for each row' if config.mix == 'sdmp' else 'one mask a step'}"
        )
    rows = config.batch_size // config.mixing_groups
    if config.mix == "patchmix" and rows < PATCHMIX_ROWS:
        raise ValueError(
            f"--mix patchmix mixes each row with the next of its group, which has {rows}: "
            f"{PATCHMIX_ROWS} or more are needed (--mix-groups, --batch-size)"
        )
