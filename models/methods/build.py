"""From a method's name and settings to its module."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from torch import nn

from models.methods import METHODS
from models.methods.base import Method, Setup
from models.modules.batchnorm import convert_batchnorm
from models.settings import MethodConfig


def build_method(name: str, config: MethodConfig, backbone: nn.Module, setup: Setup) -> Method:
    """Return the method with every batch norm, the backbone's included, in mode ``setup.bn``.

    Args:
        name: a key of ``METHODS``.
        config: that method's settings.
        backbone: what the method's ``build_backbone`` returned: images (n, 3, h, w) to features
            (n, d), with ``num_features``.
        setup: what the method needs to know of the run; which views are queries is filled in.

    Raises:
        ValueError: a number does not fit the method; the text names the flag.
    """
    if name not in METHODS:
        raise ValueError(f"--method {name}: choose one of {', '.join(METHODS)}")
    method, config_class = METHODS[name].method, METHODS[name].settings
    least, most = method.min_views, method.max_views
    if not least <= setup.num_views <= most:
        several = f"at least {least}" if math.isinf(most) else f"{least} to {most}"
        raise ValueError(
            f"--method {name} cannot take {setup.num_views} views (--crops): "
            f"{f'exactly {least}' if least == most else several}"
        )
    if setup.clim and not method.supports_clim:
        able = ", ".join(key for key, each in METHODS.items() if each.method.supports_clim)
        raise ValueError(
            f"--mix clim cannot go with --method {name}: a neighbour is only a key, which needs a "
            f"loss that compares a query with one key after another ({able})"
        )
    if not isinstance(config, config_class):
        raise ValueError(f"--method {name} takes a {config_class.__name__}, not {config!r}")
    if setup.sizes.count > 1 and not method.queries(config):
        raise ValueError(
            f"--resolutions cannot go with --method {name}: it shows queries at several sides to "
            "keys of another network, and this method has none"
        )
    sizes = replace(setup.sizes, queries=method.queries(config))
    create: Callable[..., Method] = method
    built = create(backbone, config, replace(setup, sizes=sizes))
    convert_batchnorm(built, setup.bn, setup.group_size)
    return built
