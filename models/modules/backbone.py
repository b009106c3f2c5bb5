"""Any timm model as a feature extractor: small-image stems for ResNets, multi-crop batches."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.modules import own_modules
from models.settings.base import SMALL_IMAGE, Stem, StemInit

NO_ARGUMENTS: Mapping[str, Any] = MappingProxyType({})


def create_backbone(
    name: str,
    image_size: int,
    stem: Stem = "auto",
    *,
    zero_init_last: bool = True,
    stem_init: StemInit = "he",
    in_chans: int = 3,
    width: float = 1.0,
    arguments: Mapping[str, Any] = NO_ARGUMENTS,
) -> nn.Module:
    """Return a model without a classifier: (n, c, h, w) -> (n, ``num_features(model)``).

    Args:
        name: any timm model name, or ``file.py:Class``, a module of one's own.
        image_size: side of the largest view in pixels; transformers are built for it.
        stem: ``small`` gives a ResNet a 3x3 stride-1 first convolution and no max-pooling;
            ``small-pool`` keeps the max-pooling; ``standard`` is the model's own; ``auto`` is
            ``small`` for images up to 64 pixels, else ``standard``.
        zero_init_last: initialize the last batch norm of each ResNet block to 0 instead of 1, so
            that the block starts as the identity (Goyal 2017, 1706.02677).
        stem_init: initialization of a small stem's convolution: ``he``, He's normal distribution
            over the fan-out, as in the other convolutions; ``pytorch``, that of ``nn.Conv2d``.
        in_chans: channels of the images.
        width: multiplier of the channels of each ResNet stage; the stem is not changed.
        arguments: further arguments of the model's constructor (``--backbone-args``).

    Raises:
        ValueError: there is no such model; it cannot be built for this side or with these
            arguments; a small stem or another width is asked of a model that is not a ResNet;
            ``stem_init`` is given for a stem that is not small.
    """
    model, create = _create(name, image_size, in_chans, arguments)
    from timm.models.resnet import ResNet

    small = stem.startswith("small") or (stem == "auto" and image_size <= SMALL_IMAGE)
    if stem_init != "he" and not (small and isinstance(model, ResNet)):
        raise ValueError(
            f"--stem-init {stem_init} is for the convolution of a ResNet's small stem: --stem small"
        )
    if not isinstance(model, ResNet):
        if stem.startswith("small"):
            raise ValueError(f"--stem {stem} is for ResNets; {name} has a stem of its own")
        if width != 1:
            raise ValueError(f"--backbone {name}: only ResNets can be {width} times as wide")
        return model
    if not zero_init_last or width != 1:
        options: dict[str, Any] = {"zero_init_last": zero_init_last}
        if width != 1:
            options["channels"] = tuple(round(c * width) for c in _stage_channels(model))
        model = cast(ResNet, create(**options))
    if small:
        _use_small_stem(model, stem_init)
        if stem != "small-pool":
            model.maxpool = nn.Identity()  # type: ignore[assignment]
    return model


def _create(
    name: str, image_size: int, in_chans: int, arguments: Mapping[str, Any]
) -> tuple[nn.Module, Callable[..., nn.Module]]:
    """Return a model as its package builds it, and what builds it again with more options.

    Raises:
        ValueError: there is no such model, or it cannot be built so.
    """
    if own_modules.is_own(name):
        return own_modules.create(name, image_size, in_chans, arguments), nn.Module
    import timm  # takes 2 s: not before it is known that all else fits

    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=5)
        raise ValueError(f"--backbone {name}: timm has no such model; closest: {', '.join(close)}")
    options = {"in_chans": in_chans, **size_options(name, image_size), **arguments}
    create = partial(timm.create_model, name, num_classes=0, **options)
    try:
        return create(), create
    except Exception as error:  # a constructor's assertions, and whatever else it raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        given = "".join(f" {key}={value}" for key, value in arguments.items())
        if "unexpected keyword argument" in reason:
            reason += f"; it takes {', '.join(_parameters(name))}"
        raise ValueError(
            f"--backbone {name} cannot be built for --image-size {image_size}"
            f"{f' with --backbone-args{given}' if given else ''}: {reason}"
        ) from error


def _parameters(name: str) -> list[str]:
    """Return the names of the arguments that a timm model's class takes."""
    import timm

    with torch.device("meta"):
        kind = type(timm.create_model(name, num_classes=0))
    return [key for key in inspect.signature(kind).parameters if key not in ("self", "kwargs")]


def size_options(name: str, image_size: int) -> dict[str, Any]:
    """Return timm's options that build a model for images of this side in pixels."""
    options: dict[str, Any] = {}
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        options["img_size"] = image_size
    if timm.models.is_model_in_modules(name, ["vision_transformer"]):
        options["dynamic_img_size"] = True  # multi-crop feeds it more than one size
    return options


def num_features(backbone: nn.Module) -> int:
    """Return the length of the backbone's feature rows."""
    # timm's mobile networks have a wider layer between num_features and the classifier.
    width: int = getattr(backbone, "head_hidden_size", None) or backbone.num_features  # type: ignore[assignment]
    return width


def encode(
    backbone: nn.Module, images: Sequence[Float[Tensor, "n c _h _w"]]
) -> list[Float[Tensor, "n d"]]:
    """Return the features of each batch; batches of one size go through the backbone together.

    They therefore share batch statistics, and many small crops cost few calls.
    """
    by_size: dict[torch.Size, list[int]] = {}
    for i, x in enumerate(images):
        by_size.setdefault(x.shape[-2:], []).append(i)
    features: dict[int, Tensor] = {}
    for members in by_size.values():
        rows: Tensor = backbone(torch.cat([images[i] for i in members]))
        features |= zip(members, rows.chunk(len(members)), strict=True)
    return [features[i] for i in range(len(images))]


def _stage_channels(model: Any) -> list[int]:
    """Return the channels of each stage, before the expansion of its blocks."""
    expansion = cast(int, model.get_submodule("layer1.0").expansion)
    stages: list[dict[str, Any]] = list(model.feature_info[1:])
    return [stage["num_chs"] // expansion for stage in stages]


def _use_small_stem(model: Any, init: StemInit) -> None:
    """Keep the image's full resolution in the first convolution."""
    first = model.conv1
    if isinstance(first, nn.Sequential):  # a deep stem, whose first convolution has stride 2
        convolution = cast(nn.Conv2d, first[0])
        convolution.stride = (1, 1)
        if init == "pytorch":
            convolution.reset_parameters()
    else:
        model.conv1 = nn.Conv2d(
            first.in_channels, first.out_channels, 3, stride=1, padding=1, bias=False
        )
        if init == "he":
            nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
