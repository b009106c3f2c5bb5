"""Any timm model as a feature extractor, with ResNets' small-image stem."""

from __future__ import annotations

import difflib
from typing import Any, Literal

import timm
from timm.models.resnet import ResNet
from torch import nn

Stem = Literal["auto", "small", "standard"]

SMALL_IMAGE = 64
"""Images up to this many pixels a side get the small stem under ``auto``."""


def create_backbone(
    name: str, image_size: int, stem: Stem = "auto", *, zero_init_last: bool = True
) -> nn.Module:
    """Return a timm model without a classifier: (n, 3, h, w) -> (n, ``num_features(model)``).

    Args:
        name: any timm model name.
        image_size: side of the largest view in pixels; transformers are built for it.
        stem: ``small`` gives a ResNet a 3x3 stride-1 first convolution and no max-pool;
            ``auto`` does so for images up to 64 pixels; ``standard`` never.
        zero_init_last: start each ResNet block's last batch norm at zero, as timm does; the
            papers reproduced here did not (``False``).

    Raises:
        ValueError: timm has no such model, or ``small`` was asked of a model that is no ResNet.
    """
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=5)
        raise ValueError(f"--backbone {name}: timm has no such model; closest: {', '.join(close)}")
    options: dict[str, Any] = {}
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        options["img_size"] = image_size
    if timm.models.is_model_in_modules(name, ["vision_transformer"]):
        options["dynamic_img_size"] = True  # multi-crop feeds it more than one size
    model = timm.create_model(name, num_classes=0, **options)
    if not isinstance(model, ResNet):
        if stem == "small":
            raise ValueError(f"--stem small is for ResNets; {name} has its own stem")
        return model
    if not zero_init_last:
        options["zero_init_last"] = False
        model = timm.create_model(name, num_classes=0, **options)
        assert isinstance(model, ResNet)
    if stem == "small" or (stem == "auto" and image_size <= SMALL_IMAGE):
        _use_small_stem(model)
    return model


def num_features(backbone: nn.Module) -> int:
    """Return the length of the backbone's feature rows."""
    # timm's mobile networks keep a wider layer between num_features and the classifier.
    return getattr(backbone, "head_hidden_size", None) or backbone.num_features  # type: ignore[return-value]


def _use_small_stem(model: ResNet) -> None:
    """Keep the image's full resolution up to the first stage."""
    first = model.conv1
    if isinstance(first, nn.Sequential):  # a deep stem: its first convolution halves
        assert isinstance(first[0], nn.Conv2d)
        first[0].stride = (1, 1)
    else:
        model.conv1 = nn.Conv2d(3, first.out_channels, 3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()  # type: ignore[assignment]
