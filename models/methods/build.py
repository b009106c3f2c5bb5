"""From a method's name and settings to its module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from models.methods import METHODS, check_method
from models.methods.base import Method, Setup
from models.modules.batchnorm import convert_batchnorm
from models.settings.base import MethodConfig


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
    if not isinstance(config, config_class):
        raise ValueError(f"--method {name} takes a {config_class.__name__}, not {config!r}")
    check_method(name, config, setup.num_views, setup.batch_size, setup.clim, setup.sizes.count)
    sizes = replace(setup.sizes, queries=config.queries)
    create: Callable[..., Method] = method
    built = create(backbone, config, replace(setup, sizes=sizes))
    convert_batchnorm(built, setup.bn, setup.group_size)
    return built
