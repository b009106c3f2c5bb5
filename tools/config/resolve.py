"""What the settings leave open, filled in; what does not fit, refused before any work."""

from __future__ import annotations

import dataclasses
from typing import Any

from models.methods import check_method
from models.settings.base import SMALL_IMAGE, ClimTerms
from pipelines.datasets import DATASETS, DataFacts
from pipelines.settings import LABEL_FREE, SOFT_TARGET_NAMES
from tools.config.config import Config, ResolvedConfig, flag
from tools.config.view_plan import base_views, sizes_of, views_of

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
    backbone, stem = config.backbone, config.stem
    if backbone == "auto":
        backbone = "resnet18" if size <= 96 else "resnet50"
        if facts is DATASETS["photos"]:  # what two cores train in minutes
            backbone = "resnet10t"
            stem = "standard" if stem == "auto" else stem
    return _filled(dataclasses.replace(config, backbone=backbone, stem=stem), size, precision)


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
    defaults = config.chosen.defaults
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
        "decay": config.decay or ("all" if defaults.decay_norm_and_bias else "weights"),
        "momentum": _either(config.momentum, defaults.momentum),
        "warmup_epochs": _either(config.warmup_epochs, defaults.warmup_epochs),
        "schedule": config.schedule or defaults.schedule,
        "zero_init_last": config.zero_init_last,
    }
    if config.zero_init_last is None:
        filled["zero_init_last"] = defaults.zero_init_last and not small
    return ResolvedConfig(**{**vars(config), **filled})


def _either(given: float | None, default: float) -> float:
    return default if given is None else given


def check(config: ResolvedConfig, processes: int) -> None:
    """Refuse settings that do not fit together, as far as that needs no images.

    Raises:
        ValueError: naming the flags.
    """
    check_sharing(config, processes)
    check_mixture(config)
    views_of(config)
    views, sides = len(base_views(config)), sizes_of(config).count
    check_method(config.method, config.chosen, views, config.batch_size, clim_terms(config), sides)


def clim_terms(config: Config) -> ClimTerms | None:
    """Return how CLIM's terms are weighted, if the mixture is CLIM's."""
    if config.mix != "clim":
        return None
    return ClimTerms(config.clim.mode, config.clim.weight, config.clim.denominator)


def check_sharing(config: Config, processes: int) -> None:
    """Refuse batches that cannot be shared out, before any work.

    Raises:
        ValueError: naming the flags to change.
    """
    batch, shares = config.batch_size, processes * config.accumulate
    by = f"{processes} processes"
    if config.accumulate > 1:
        by += f" with --accumulate {config.accumulate}"
        check_accumulation(config)
    if batch % shares:
        raise ValueError(f"--batch-size {batch} cannot be shared by {by}")
    if batch < 2:
        raise ValueError(f"--batch-size {batch}: batch norm needs two images at least")
    in_pairs = {*config.mixes} & {*SOFT_TARGET_NAMES}
    takes_partner = {*config.mixes} & {*LABEL_FREE} - {"cutout", "erasing"}
    label_free = takes_partner and config.im.partner == "group"
    in_groups = in_pairs or label_free or config.mix == "clim"
    if config.bn == "group" or (in_groups and config.mix_groups is None):
        _check_groups(config, "groups", by, shares)
    if not in_groups:
        return
    named = "groups" if config.mix_groups is None else "mix_groups"
    _check_groups(config, named, by, shares)
    rows, described = batch // config.mixing_groups, f"{flag(named)} {config.mixing_groups}"
    if label_free and rows < 2:
        raise ValueError(
            f"--batch-size {batch} in {described} leaves each row alone: --mix {config.mix} "
            "takes partners from the group (or --im.partner dataset)"
        )
    if in_pairs and rows % 2:
        raise ValueError(
            f"--batch-size {batch} in {described} makes groups of {rows}: "
            "mixtures pair the rows of a group, so their number must be even"
        )


def _check_groups(config: Config, name: str, by: str, shares: int) -> None:
    """Refuse groups that do not divide the batch, or that processes would cut."""
    batch, groups = config.batch_size, getattr(config, name)
    if batch % groups or groups % shares:
        raise ValueError(
            f"--batch-size {batch}, {flag(name)} {groups} and {by} do not divide: groups must "
            "share out the batch evenly, and processes (times --accumulate) the groups"
        )


def changes(config: Config) -> list[str]:
    """Return what micro-batches change of the loss of resolved settings; nothing: none."""
    across = config.chosen.describe_coupling()
    found = [across] if across else []
    if config.bn == "sync":
        found.append("--bn sync takes batch statistics of a micro-batch (--bn group is exact)")
    return found if config.accumulate > 1 else []


def check_accumulation(config: Config) -> None:
    """Refuse micro-batches that would change the loss, unless that is asked for.

    Raises:
        ValueError: naming the flags, and what would be another loss.
    """
    parts, rows = config.accumulate, config.batch_size // config.accumulate
    changed = changes(config)
    if changed and not config.accumulate_inexact:
        raise ValueError(
            f"--accumulate {parts} would not be the same run for --method {config.method}: "
            f"{'; '.join(changed)}. --accumulate-inexact trains so all the same"
        )
    unit = config.chosen.row_unit
    if rows < 2 or rows % unit:
        raise ValueError(
            f"--accumulate {parts} makes micro-batches of {rows} images over all processes: "
            f"--method {config.method} takes multiples of {max(unit, 2)}"
        )


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
    if config.method == "swav" and "mixmask" in soft and config.chosen.chained_lam:
        raise ValueError("--swav.chained-lam is about boxes; --mix mixmask has none")
    if config.method == "swav" and len(soft) > 1 and config.chosen.queue_mixtures:
        raise ValueError(f"--swav.queue-mixtures takes one mixture, not --mix {config.mix}")
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
