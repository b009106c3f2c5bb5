"""The network of a run before its weights: its name, its patch embedding, the sides it takes."""

from __future__ import annotations

import dataclasses
import json

from torch import nn

from models.methods import Method
from models.modules.pretrained import architecture_of, check_weights_exist
from models.modules.shapes import refuse_sides
from models.optim import layer_shares
from models.settings.backbones import HUB
from tools.config.config import Config, ResolvedConfig
from tools.config.init import RESERVED, named_backbone
from tools.config.sides import sides_of
from tools.config.view_plan import base_views, crops_as_flags, fit_crops, whole_patches


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


def patch_of(backbone: nn.Module) -> int | None:
    """Return the side of a backbone's square patches in pixels; None: it cuts no such patches."""
    patch = getattr(getattr(backbone, "patch_embed", None), "patch_size", None)
    sides = set(patch) if isinstance(patch, tuple | list) else {patch}
    (side, *others) = sides
    return side if isinstance(side, int) and not others else None


def with_whole_patches(given: Config, config: ResolvedConfig, method: Method) -> ResolvedConfig:
    """Return the settings with published small crops rounded to patches, where that is needed.

    Only a side that the backbone cannot encode is changed, and only to one that it can. Sides that
    the flags name stay.
    """
    patch = patch_of(method.backbone)
    size, views = config.image_size, base_views(config)
    small = {view.size for view in views if view.size < size}
    if patch is None or given.crop_sizes or all(side % patch == 0 for side in small):
        return config
    if config.aug.scale is not None or len({(view.size, view.scale) for view in views}) != 2:
        return config
    fitted = fit_crops(config, patch)
    sides = dict.fromkeys(fitted.crop_sizes, "--crop-sizes")
    name, channels = config.backbone, config.in_chans
    try:
        refuse_sides(method.backbone, name, channels, dict.fromkeys(small, "--crop-sizes"))
    except ValueError:
        try:
            refuse_sides(method.backbone, name, channels, sides)
        except ValueError:
            return config
        return fitted
    return config


def refuse_views(config: ResolvedConfig, method: Method, steps_per_epoch: int) -> None:
    """Refuse a backbone that cannot encode a view that some step will show it.

    Raises:
        ValueError: naming the flag of the view's side, and for patches, sides that fit.
    """
    sides = sides_of(config, steps_per_epoch)
    try:
        refuse_sides(method.backbone, config.backbone, config.in_chans, sides)
    except ValueError as error:
        patch = patch_of(method.backbone)
        if patch is None or all(side % patch == 0 for side in sides):
            raise
        reason = str(error).rstrip(".")
        raise ValueError(
            f"{reason}. Its patches have {patch} pixels: take sides that are multiples of {patch}"
            f"{_fitting_flags(config, patch)}"
        ) from error


def _fitting_flags(config: ResolvedConfig, patch: int) -> str:
    """Return the flags of the nearest sides that are whole patches, to end a message."""
    size = whole_patches(config.image_size, patch)
    flags = [] if size == config.image_size else [f"--image-size {size}"]
    if config.crops and any(side % patch for side in config.crop_sizes):
        flags.append(crops_as_flags(fit_crops(config, patch)))
    return f", as {' '.join(flags)}" if flags else ""


def describe_layers(config: ResolvedConfig, method: Method) -> list[str]:
    """Return a line on the learning rates of ``--layer-decay``, if there is one."""
    if config.layer_decay == 1:
        return []
    shares = layer_shares(method.backbone, config.layer_decay).values()
    first, last = (config.lr * share for share in (min(shares), max(shares)))
    return [
        f"--layer-decay {config.layer_decay:g}: the learning rate peaks at {first:.3g} in the "
        f"backbone's first layer, {last:.3g} in its last and {config.lr:.3g} in the head"
    ]
