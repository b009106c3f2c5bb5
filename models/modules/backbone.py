"""Any timm model as a feature extractor, with ResNets' small-image stem; many crops at once."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.settings import SMALL_IMAGE, Stem, StemInit


def create_backbone(
    name: str,
    image_size: int,
    stem: Stem = "auto",
    *,
    zero_init_last: bool = True,
    stem_init: StemInit = "he",
    in_chans: int = 3,
    width: float = 1.0,
) -> nn.Module:
    """Return a timm model without a classifier: (n, c, h, w) -> (n, ``num_features(model)``).

    Args:
        name: any timm model name.
        image_size: side of the largest view in pixels; transformers are built for it.
        stem: ``small`` gives a ResNet a 3x3 stride-1 first convolution and no max-pool;
            ``small-pool`` keeps the max-pool; ``auto`` is ``small`` for images up to 64 pixels,
            else ``standard``, the model's own.
        zero_init_last: start the last batch norm of each ResNet block at 0, so that the block
            starts as the identity (Goyal 2017, 1706.02677); else at 1.
        stem_init: first weights of a small stem's convolution: ``he``, normal with He's deviation
            over the fan-out, as the other convolutions; ``pytorch``, as ``nn.Conv2d`` is made.
        in_chans: channels of the images.
        width: channels of each stage of a ResNet as a share of the model's own; the stem stays.

    Raises:
        ValueError: timm has no such model; a small stem or another width was asked of a model
            that is no ResNet; ``stem_init`` was given for a stem that is not small.
    """
    import timm  # takes 2 s: not before it is known that all else fits
    from timm.models.resnet import ResNet

    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=5)
        raise ValueError(f"--backbone {name}: timm has no such model; closest: {', '.join(close)}")
    options = {"in_chans": in_chans, **size_options(name, image_size)}
    model = timm.create_model(name, num_classes=0, **options)
    small = stem.startswith("small") or (stem == "auto" and image_size <= SMALL_IMAGE)
    if stem_init != "he" and not (small and isinstance(model, ResNet)):
        raise ValueError(
            f"--stem-init {stem_init} is for the convolution of a ResNet's small stem: --stem small"
        )
    if not isinstance(model, ResNet):
        if stem.startswith("small"):
            raise ValueError(f"--stem {stem} is for ResNets; {name} has its own stem")
        if width != 1:
            raise ValueError(f"--backbone {name}: only ResNets come {width} times as wide")
        return model
    if not zero_init_last or width != 1:
        options["zero_init_last"] = zero_init_last
        if width != 1:
            options["channels"] = tuple(round(c * width) for c in _stage_channels(model))
        model = timm.create_model(name, num_classes=0, **options)
        assert isinstance(model, ResNet)
    if small:
        _use_small_stem(model, stem_init)
        if stem != "small-pool":
            model.maxpool = nn.Identity()  # type: ignore[assignment]
    return model


def size_options(name: str, image_size: int) -> dict[str, Any]:
    """Return what timm has to be told of the images' side in pixels to build a model for it."""
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
    # timm's mobile networks keep a wider layer between num_features and the classifier.
    return getattr(backbone, "head_hidden_size", None) or backbone.num_features  # type: ignore[return-value]


def encode(
    backbone: nn.Module, images: Sequence[Float[Tensor, "n c _h _w"]]
) -> list[Float[Tensor, "n d"]]:
    """Return each batch's features; batches of one size go through the backbone together.

    So they share sync batch norm's statistics, and small crops cost few calls.
    """
    by_size: dict[torch.Size, list[int]] = {}
    for i, x in enumerate(images):
        by_size.setdefault(x.shape[-2:], []).append(i)
    features: dict[int, Tensor] = {}
    for members in by_size.values():
        rows = backbone(torch.cat([images[i] for i in members]))
        features |= zip(members, rows.split(len(images[0])), strict=True)
    return [features[i] for i in range(len(images))]


def _stage_channels(model: Any) -> list[int]:
    """The width of each stage, as timm's ResNets are told it."""
    expansion = model.get_submodule("layer1.0").expansion
    assert isinstance(expansion, int)
    stages: list[dict[str, Any]] = list(model.feature_info[1:])
    return [stage["num_chs"] // expansion for stage in stages]


def _use_small_stem(model: Any, init: StemInit) -> None:
    """Keep the image's full resolution in the first convolution."""
    first = model.conv1
    if isinstance(first, nn.Sequential):  # a deep stem: its first convolution halves
        assert isinstance(first[0], nn.Conv2d)
        first[0].stride = (1, 1)
        if init == "pytorch":
            first[0].reset_parameters()
    else:
        model.conv1 = nn.Conv2d(
            first.in_channels, first.out_channels, 3, stride=1, padding=1, bias=False
        )
        if init == "he":
            nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
