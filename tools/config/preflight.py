"""Refusals that need no torch, so that a mistyped path or a batch of odd size is named at once."""

from __future__ import annotations

import os

from pipelines.datasets import check_spec, read_classes
from tools.config.config import Config
from tools.config.resolve import check_sharing


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
    if config.classes is not None:
        read_classes(config.classes)
    if config.accumulate == 1:  # otherwise the method has a say, whose module needs torch
        check_sharing(config, int(os.environ.get("WORLD_SIZE", "1")))
