"""A batch in equal parts: groups, processes, micro-batches; and sizes of it that fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from math import lcm
from typing import Any

from pipelines.settings import LABEL_FREE, PERMUTED_NAMES, SOFT_TARGET_NAMES
from pipelines.system.units import counted
from tools.config.config import Config, ResolvedConfig, flag

NEAREST = 100
"""Sizes that are tried on either side of one that does not fit."""


class Unshared(ValueError):
    """A batch that its groups, processes or micro-batches cannot share out."""


def check_sharing(config: Config, processes: int) -> None:
    """Refuse batches that cannot be shared out, before any work.

    Raises:
        Unshared: naming the flags to change.
        ValueError: micro-batches would change the loss.
    """
    batch, shares = config.batch_size, processes * config.accumulate
    by = counted(processes, "process")
    if config.accumulate > 1:
        by += f" with --accumulate {config.accumulate}"
        check_accumulation(config)
    if batch % shares:
        raise Unshared(f"--batch-size {batch} cannot be shared by {by}")
    if batch < 2:
        raise Unshared(f"--batch-size {batch}: batch norm needs two images at least")
    soft = {*config.mixes} & {*SOFT_TARGET_NAMES}
    in_pairs = soft - {*PERMUTED_NAMES}
    takes_partner = {*config.mixes} & {*LABEL_FREE} - {"cutout", "erasing"}
    label_free = takes_partner and config.im.partner == "group"
    in_groups = soft or label_free or config.mix == "clim"
    if config.bn == "group" or (in_groups and config.mix_groups is None):
        _check_groups(config, "groups", by, shares)
    named = "groups" if config.mix_groups is None else "mix_groups"
    _check_groups(config, named, by, shares if in_groups else 1)
    if config.order == "blocks":
        _check_groups(config, "groups", by)
    if not in_groups:
        return
    rows, described = batch // config.mixing_groups, f"{flag(named)} {config.mixing_groups}"
    if (label_free or soft - in_pairs) and rows < 2:
        raise Unshared(
            f"--batch-size {batch} in {described} leaves each row alone: --mix {config.mix} takes "
            f"partners from the group{' (or --im.partner dataset)' if label_free else ''}"
        )
    if in_pairs and rows % 2:
        raise Unshared(
            f"--batch-size {batch} in {described} makes groups of {rows}: "
            "mixtures pair the rows of a group, so their number must be even"
        )


def _check_groups(config: Config, name: str, by: str, shares: int = 1) -> None:
    """Refuse groups that do not divide the batch, or that would be cut by the shares."""
    batch, groups = config.batch_size, getattr(config, name)
    if batch % groups or groups % shares:
        raise Unshared(
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
        Unshared: the micro-batches are too small, or cut what must stay together.
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
        raise Unshared(
            f"--accumulate {parts} makes micro-batches of {rows} images over all processes: "
            f"--method {config.method} takes multiples of {max(unit, 2)}"
        )


def nearest_sizes(
    config: ResolvedConfig, shares: int, fits: Callable[[ResolvedConfig], bool]
) -> str:
    """Return the flags of the nearest sizes that fit, as "--batch-size 56 or 64".

    Args:
        config: settings whose batch cannot be shared out.
        shares: number of processes, times micro-batches.
        fits: whether settings fit together.

    Returns:
        The nearest smaller and larger batch; if none fits, numbers of groups; if none does, "".
    """
    named = "groups" if config.mix_groups is None else "mix_groups"
    for name, unit in (("batch_size", lcm(config.mixing_groups, shares)), (named, shares)):
        below = getattr(config, name) // unit * unit
        sides = (
            range(below, max(below - NEAREST * unit, 0), -unit),
            range(below + unit, below + NEAREST * unit, unit),
        )
        found = [_first_that_fits(config, fits, name, sizes) for sizes in sides]
        if any(found):
            return f"{flag(name)} {' or '.join(str(size) for size in found if size)}"
    return ""


def largest_batch(
    config: ResolvedConfig, most: int, shares: int, fits: Callable[[ResolvedConfig], bool]
) -> int | None:
    """Return the largest batch up to ``most`` that fits; None if none near it does.

    The other arguments are those of ``nearest_sizes``.
    """
    unit = lcm(config.mixing_groups, shares)
    below = most // unit * unit
    sizes = range(below, max(below - NEAREST * unit, 0), -unit)
    return _first_that_fits(config, fits, "batch_size", sizes)


def _first_that_fits(
    config: ResolvedConfig, fits: Callable[[ResolvedConfig], bool], name: str, sizes: range
) -> int | None:
    """Return the first of the sizes of a field with which the settings fit."""
    for size in sizes:
        change: dict[str, Any] = {name: size}
        if fits(dataclasses.replace(config, **change)):
            return size
    return None
