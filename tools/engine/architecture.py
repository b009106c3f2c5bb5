"""The network of a run before its weights: its name, its patch embedding, the sides it takes."""

from __future__ import annotations

import dataclasses
import json

from torch import nn

from models.methods import Method
from models.modules.pretrained import architecture_of, check_weights_exist
from models.modules.shapes import refuse_sides
from models.settings.backbones import HUB
from tools.config.config import Config, ResolvedConfig
from tools.config.init import RESERVED, named_backbone
from tools.config.sides import sides_of


def name_architecture(config: Config) -> Config:
    """Return the settings with timm's name of a backbone that is on the hub or in its files.

    Raises:
        ValueError: there is no such model, or it cannot be fetched; or timm has no such weights.
    """
    if config.init is not None and config.init.startswith("timm:") and not config.resume:
        try:
            check_weights_exist(config.init.removeprefix("timm:"))
        except ValueError as error:
            raise ValueError(f"--init {config.init}: {error}") from error
    backbone, _, words = named_backbone(
        config.backbone, config.stem, config.backbone_args, config.init, bool(config.resume)
    )
    if not backbone.startswith(HUB):
        return config
    try:
        name, arguments = architecture_of(backbone)
    except ValueError as error:
        flag = "--backbone" if config.backbone == backbone else "--init"
        raise ValueError(f"{flag} {backbone}: {error}") from error
    given = {word.partition("=")[0] for word in words} | {*RESERVED, "img_size"}
    theirs = (f"{key}={json.dumps(value)}" for key, value in arguments.items() if key not in given)
    return dataclasses.replace(config, backbone=name, backbone_args=(*theirs, *words))


def freeze_patch_embed(backbone: nn.Module, name: str) -> None:
    """Keep a ViT's patch embedding at its first weights (Chen 2021, 2104.02057, section 4.2).

    Raises:
        ValueError: the backbone has none.
    """
    layer = getattr(getattr(backbone, "patch_embed", None), "proj", None)
    if not isinstance(layer, nn.Module):
        raise ValueError(f"--freeze-patch-embed: {name} has no patch embedding to freeze")
    layer.requires_grad_(False)


def refuse_views(config: ResolvedConfig, method: Method, steps_per_epoch: int) -> None:
    """Refuse a backbone that cannot encode a view that some step will show it.

    Raises:
        ValueError: naming the flag of the view's side.
    """
    sides = sides_of(config, steps_per_epoch)
    refuse_sides(method.backbone, config.backbone, config.in_chans, sides)
