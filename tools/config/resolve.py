"""What the settings leave open, filled in; what does not fit, refused before any work."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

from models.methods import check_method
from models.settings.backbones import defaults_of, is_plain_vit, is_transformer
from models.settings.base import SMALL_IMAGE, ClimTerms, Defaults
from pipelines.data_facts import DATASETS, DataFacts
from pipelines.settings import (
    PERMUTED_NAMES,
    SOFT_TARGET_NAMES,
    UN_MIX_NAMES,
)
from tools.config.across import check_across
from tools.config.among_mixtures import check_among_mixtures, check_patches
from tools.config.config import Config, ResolvedConfig, flag, numbers_of
from tools.config.init import named_backbone
from tools.config.mix_terms import check_terms, is_i_mix, published_terms
from tools.config.pixels import check_channels
from tools.config.sharing import Unshared, check_sharing, nearest_sizes
from tools.config.view_plan import base_views, published_crops, sizes_of, views_of

SMALL_VIEWS = {
    **dict.fromkeys(("moco", "simclr", "byol", "barlow", "vicreg", "moco-v3"), "cifar"),
    **dict.fromkeys(("swav", "dino"), "swav-cifar"),
    "simsiam": "simsiam-cifar",
}
"""The published augmentations for images up to ``SMALL_IMAGE`` pixels, where they differ."""


def resolve(config: Config, facts: DataFacts, precision: str) -> ResolvedConfig:
    """Fill in what the settings leave to the method, the data set and the launcher.

    Args:
        config: the settings as given.
        facts: what is known of the data set.
        precision: the launcher's mixed precision, the one that is in force.
    """
    first = config.resolutions[0] if config.resolutions else None
    size = config.image_size or first or facts.image_size
    backbone, stem, words = named_backbone(
        config.backbone, config.stem, config.backbone_args, config.init, bool(config.resume)
    )
    if backbone == "auto":
        backbone = "resnet18" if size <= 96 else "resnet50"
        if facts is DATASETS["photos"]:  # what two cores train in minutes
            backbone = "resnet10t"
            stem = "standard" if stem == "auto" else stem
    config = dataclasses.replace(config, backbone=backbone, stem=stem, backbone_args=words)
    return _filled(config, size, precision)


def resolved(saved: Config) -> ResolvedConfig:
    """Return the settings of a saved run as what they are: resolved.

    Raises:
        ValueError: they are not those of a run; the text names the first that is missing.
    """
    if saved.image_size is None:
        raise ValueError("--image-size is not set: these are not the settings of a run")
    return _filled(saved, saved.image_size, saved.precision or "no")


def _filled(config: Config, size: int, precision: str) -> ResolvedConfig:
    """Fill in the published training of the method for images of this side."""
    defaults = published(config)
    small = size <= SMALL_IMAGE
    peak = config.lr
    if peak is None:
        peak = defaults.lr_per_256 * config.batch_size / 256
    filled: dict[str, Any] = {
        "image_size": size,
        "views": config.views or ((small and SMALL_VIEWS.get(config.method)) or defaults.views),
        "bn": config.bn or defaults.bn,
        "precision": precision,
        "optimizer": config.optimizer or defaults.optimizer,
        "lr": peak,
        "final_lr": _either(config.final_lr, defaults.final_lr_ratio * peak),
        "weight_decay": _either(config.weight_decay, defaults.weight_decay),
        "weight_decay_end": _weight_decay_end(config, defaults),
        "decay": config.decay or ("all" if defaults.decay_norm_and_bias else "weights"),
        "momentum": _either(config.momentum, defaults.momentum),
        "warmup_epochs": _either(config.warmup_epochs, defaults.warmup_epochs),
        "schedule": config.schedule or defaults.schedule,
        "zero_init_last": config.zero_init_last,
        "freeze_patch_embed": config.freeze_patch_embed,
        "mix_terms": config.mix_terms or published_terms(config),
        numbers_of(config.method): config.chosen.filled(i_mix=is_i_mix(config)).suited(
            config.backbone
        ),
    }
    filled |= published_crops(config, size, filled["views"])
    if config.zero_init_last is None:
        filled["zero_init_last"] = defaults.zero_init_last and not small
    if config.freeze_patch_embed is None:
        filled["freeze_patch_embed"] = config.method == "moco-v3" and is_plain_vit(config.backbone)
    return ResolvedConfig(**{**vars(config), **filled})


def published(config: Config) -> Defaults:
    """Return how the method trains the backbone: as published for ResNets, or for ViTs."""
    return defaults_of(config.chosen.defaults, config.chosen.transformer, config.backbone)


def describe_defaults(given: Config, config: ResolvedConfig) -> list[str]:
    """Return a line on the training of a transformer, if settings were left to it."""
    names = ("optimizer", "lr", "weight_decay", "warmup_epochs")
    left = [name for name in names if getattr(given, name) is None]
    if not left or not is_transformer(config.backbone):
        return []
    values = ", ".join(f"{flag(name)} {getattr(config, name):}" for name in left)
    whose = "as published for its ViTs" if config.chosen.transformer else "as MoCo v3's ViTs"
    return [
        f"{config.backbone} is a transformer and trains with {values} ({whose}), not with the "
        f"{config.chosen.defaults.optimizer} of {config.method}'s ResNets"
    ]


def _weight_decay_end(config: Config, defaults: Defaults) -> float:
    """Return the last weight decay: the method's goes with its own first one."""
    first = _either(config.weight_decay, defaults.weight_decay)
    if config.weight_decay_end is not None:
        if first == 0 < config.weight_decay_end:
            raise ValueError(
                f"--weight-decay-end {config.weight_decay_end} cannot be reached from "
                "--weight-decay 0: the decay of a parameter group stays off if it starts at 0"
            )
        return config.weight_decay_end
    return first if config.weight_decay is not None else _either(defaults.weight_decay_end, first)


def _either(given: float | None, default: float) -> float:
    return default if given is None else given


def check(config: ResolvedConfig, processes: int) -> None:
    """Refuse settings that do not fit together, as far as that needs no images.

    Raises:
        ValueError: naming the flags, and sizes that fit if the batch cannot be shared out.
    """
    if config.keep_best and config.knn_every == 0:
        raise ValueError("--keep-best needs kNN scores: --knn-every 1 or more, not 0")
    try:
        check_sharing(config, processes)
    except Unshared as error:
        ways = nearest_sizes(config, processes * config.accumulate, partial(fits, processes))
        raise ValueError(f"{error}{f'; {ways} would fit' if ways else ''}") from error
    _check_numbers(config)


def fits(processes: int, config: ResolvedConfig) -> bool:
    """Return whether ``check`` accepts the settings."""
    try:
        check_sharing(config, processes)
        _check_numbers(config)
    except ValueError:
        return False
    return True


def _check_numbers(config: ResolvedConfig) -> None:
    """Refuse settings that do not fit together, however the batch is shared out.

    Raises:
        ValueError: naming the flags.
    """
    check_channels(config)
    check_mixture(config)
    check_patches(config)
    views = views_of(config)
    if config.in_chans != 3 and any(view.rand_augment[0] for view in views):
        raise ValueError(
            f"--in-chans {config.in_chans}: RandAugment changes the colours of RGB images; "
            "--aug.rand-augment 0 10 0.5 leaves it out"
        )
    number, sides = len(base_views(config)), sizes_of(config).count
    check_method(config.method, config.chosen, number, config.batch_size, clim_terms(config), sides)


def clim_terms(config: Config) -> ClimTerms | None:
    """Return how CLIM's terms are weighted, if the mixture is CLIM's."""
    if config.mix != "clim":
        return None
    return ClimTerms(config.clim.mode, config.clim.weight, config.clim.denominator)


def check_mixture(config: Config) -> None:
    """Refuse mixtures for which the method has no loss.

    Raises:
        ValueError: naming the flags.
    """
    soft = {*config.mixes} & {*SOFT_TARGET_NAMES}
    if soft and not config.chosen.supports_unmix:
        raise ValueError(
            f"--mix {config.mix} has no meaning for --method {config.method}: nobody has published "
            "what a memory bank's negatives weigh for a mixture, nor which row is to move towards "
            "it. Mixtures that leave the targets alone are defined (Shen 2020): --mix im-region"
        )
    check_across(config)
    permuted = [mix for mix in config.mixes if mix in PERMUTED_NAMES]
    if permuted and config.chosen.needs_mutual_partners:
        raise ValueError(
            f"--mix {permuted[0]} permutes the rows of a group, but the loss of --method "
            f"{config.method}{' with --swav.reverse code' if config.method == 'swav' else ''} "
            "needs partners that are each other's: --mix unmix or mixmask, which mirror the group"
            f"{', or --swav.reverse paper' if config.method == 'swav' else ''}"
        )
    check_among_mixtures(config)
    check_terms(config, soft)
    unboxed = soft - {*UN_MIX_NAMES}
    if config.method == "swav" and unboxed and config.chosen.chained_lam:
        raise ValueError(f"--swav.chained-lam is about Un-Mix's boxes, not --mix {min(unboxed)}")
    if config.method == "swav" and len(soft) > 1 and config.chosen.queue_mixtures:
        raise ValueError(f"--swav.queue-mixtures takes one mixture, not --mix {config.mix}")
    if config.mix_draw == "group" and config.mix == "imix":
        raise ValueError("--mix-draw group: --mix imix draws a share for each row of its own")
    if config.mix_draw == "group" and not config.chosen.mixes_groups:
        raise ValueError(
            f"--mix-draw group: the loss of --method {config.method} looks at the whole batch at "
            "once, so it takes one mixture a step: --mix-draw step"
        )


def check_neighbours(config: Config, num_rows: int) -> None:
    """Refuse more neighbours than images.

    Raises:
        ValueError: naming the flag.
    """
    if config.mix == "clim" and config.clim.neighbours >= num_rows:
        raise ValueError(
            f"--clim.neighbours {config.clim.neighbours} needs more than {num_rows} images"
        )
