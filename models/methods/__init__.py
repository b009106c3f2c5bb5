"""The methods by name. A new one is a file, and a line in ``METHODS``."""

from __future__ import annotations

from typing import Any

from torch import nn

from models.batchnorm import Mode, convert_batchnorm
from models.methods.base import Defaults, Method, Setup
from models.methods.byol import Byol, ByolConfig
from models.methods.moco import Moco, MocoConfig
from models.methods.simclr import Simclr, SimclrConfig
from models.methods.swav import Swav, SwavConfig

METHODS: dict[str, tuple[Any, Any]] = {
    "moco": (Moco, MocoConfig),
    "simclr": (Simclr, SimclrConfig),
    "byol": (Byol, ByolConfig),
    "swav": (Swav, SwavConfig),
}
"""Name -> (module class, config class)."""

__all__ = ["METHODS", "Defaults", "Method", "Setup", "build_method"]


def build_method(
    name: str,
    config: Any,
    backbone: nn.Module,
    *,
    bn: Mode,
    group_size: int,
    batch_size: int,
    seed: int,
    steps_per_epoch: int,
    num_views: int = 2,
) -> Method:
    """Return the method with every batch norm, the backbone's included, in mode ``bn``.

    Args:
        name: a key of ``METHODS``.
        config: that method's config.
        backbone: images (n, 3, h, w) to features (n, d), with ``num_features``.
        bn: ``group`` (statistics per group) or ``sync`` (over all ranks).
        group_size: rows of a group.
        batch_size: images of a step over all ranks and micro-batches.
        seed: of the queue's first rows.
        steps_per_epoch: for what starts at an epoch.
        num_views: views of each image.

    Raises:
        ValueError: a number does not fit the method; the text names the flag.
    """
    if name not in METHODS:
        raise ValueError(f"--method {name}: choose one of {', '.join(METHODS)}")
    if num_views < 2 or (num_views > 2 and name != "swav"):
        raise ValueError(
            f"--method {name} cannot take {num_views} views (--crops): "
            f"{'at least 2' if name == 'swav' else 'exactly 2'}"
        )
    method, config_class = METHODS[name]
    if not isinstance(config, config_class):
        raise ValueError(f"--method {name} takes a {config_class.__name__}, not {config!r}")
    setup = Setup(bn, group_size, batch_size, seed, steps_per_epoch, num_views)
    built = method(backbone, config, setup)
    convert_batchnorm(built, bn, group_size)
    return built
