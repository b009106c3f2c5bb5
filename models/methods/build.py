"""From a method's name and settings to its module."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

from models.losses.clim import ClimLoss
from models.methods import METHODS
from models.methods.base import Method, Setup
from models.modules.batchnorm import convert_batchnorm
from models.multi_resolution import QuerySizes
from models.settings import BnMode, MethodConfig


def build_method(
    name: str,
    config: MethodConfig,
    backbone: nn.Module,
    *,
    bn: BnMode,
    group_size: int,
    batch_size: int,
    seed: int,
    steps_per_epoch: int,
    num_views: int = 2,
    num_rows: int = 0,
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
    std: tuple[float, float, float] = (1.0, 1.0, 1.0),
    clim: ClimLoss | None = None,
    sizes: QuerySizes | None = None,
) -> Method:
    """Return the method with every batch norm, the backbone's included, in mode ``bn``.

    Args:
        name: a key of ``METHODS``.
        config: that method's config.
        backbone: what the method's ``build_backbone`` returned: images (n, 3, h, w) to features
            (n, d), with ``num_features``.
        bn: ``group`` (statistics per group) or ``sync`` (over all ranks).
        group_size: rows of a group.
        batch_size: images of a step over all ranks and micro-batches.
        seed: of the queue's first rows.
        steps_per_epoch: for what starts at an epoch.
        num_views: views of each image.
        num_rows: images of the data set, for methods that remember each.
        mean: what was subtracted from each channel of a view in [0, 1] ...
        std: ... and what it was divided by after that.
        clim: the weights of CLIM's terms, if batches hold neighbours.
        sizes: the sides at which queries are shown; None: one.

    Raises:
        ValueError: a number does not fit the method; the text names the flag.
    """
    if name not in METHODS:
        raise ValueError(f"--method {name}: choose one of {', '.join(METHODS)}")
    method, config_class = METHODS[name].method, METHODS[name].settings
    least, most = method.min_views, method.max_views
    if not least <= num_views <= most:
        several = f"at least {least}" if math.isinf(most) else f"{least} to {most}"
        raise ValueError(
            f"--method {name} cannot take {num_views} views (--crops): "
            f"{f'exactly {least}' if least == most else several}"
        )
    if clim and not method.supports_clim:
        able = ", ".join(key for key, each in METHODS.items() if each.method.supports_clim)
        raise ValueError(
            f"--mix clim cannot go with --method {name}: a neighbour is only a key, which needs a "
            f"loss that compares a query with one key after another ({able})"
        )
    if not isinstance(config, config_class):
        raise ValueError(f"--method {name} takes a {config_class.__name__}, not {config!r}")
    if sizes is not None and not method.queries(config):
        raise ValueError(
            f"--resolutions cannot go with --method {name}: it shows queries at several sides to "
            "keys of another network, and this method has none"
        )
    setup = Setup(
        bn, group_size, batch_size, seed, steps_per_epoch, num_views, num_rows, mean, std, clim,
        sizes or QuerySizes(method.queries(config)),
    )  # fmt: skip
    create: Callable[..., Method] = method
    built = create(backbone, config, setup)
    convert_batchnorm(built, bn, group_size)
    return built
