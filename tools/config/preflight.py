"""Refusals before torch is imported: a path that does not exist, settings that do not fit."""

from __future__ import annotations

import os

from pipelines.data_facts import data_facts
from pipelines.datasets import check_spec
from pipelines.sources.classes import read_classes
from tools.config.config import Config
from tools.config.data_sets import check_data_weights
from tools.config.init import check_backbone_name
from tools.config.pixels import facts_of
from tools.config.resolve import check, resolve


def preflight(config: Config) -> None:
    """Refuse settings that cannot work, as far as that can be seen before anything is opened.

    Raises:
        ValueError: naming the flag.
    """
    named = {"--data": config.data, "--val-data": config.val_data}
    for flag, spec in named.items():
        if spec is None or (flag, spec) == ("--val-data", "none"):
            continue
        try:
            check_spec(spec)
        except ValueError as error:
            raise ValueError(f"{flag} {spec}: {error}") from error
    check_data_weights(config)
    if config.val_fraction is not None and config.val_data is not None:
        raise ValueError("--val-fraction scores images of --data: leave out --val-data")
    if config.classes is not None:
        read_classes(config.classes)
    facts_of(config)
    check_backbone_name(config.backbone, config.resume not in (None, "auto"))
    resolved = resolve(config, data_facts(config.data), config.precision or "no")
    check(resolved, int(os.environ.get("WORLD_SIZE", "1")))  # the launcher sets it
