"""The shape of a module's output, without computing it where that is possible."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.func import functional_call

ROWS = 2


def output_shape(module: nn.Module, channels: int, side: int) -> torch.Size | str:
    """Return the shape of a module's output for two square images, or what is not a tensor.

    The module is called in eval mode on the meta device, which computes shapes only; where an
    operation has no such version, with two images of zeros. Neither draws random numbers.

    Args:
        module: images (n, channels, side, side) to features.
        channels: of the images.
        side: in pixels.

    Raises:
        Exception: whatever the module raises at this side.
    """
    was_training = [child for child in module.modules() if child.training]
    module.eval()
    try:
        with torch.no_grad():
            try:
                found = _on_meta(module, torch.empty(ROWS, channels, side, side, device="meta"))
            except (NotImplementedError, RuntimeError, TypeError):
                device = next(module.parameters(), torch.empty(0)).device
                found = module(torch.zeros(ROWS, channels, side, side, device=device))
    finally:
        for child in was_training:
            child.training = True
    return found.shape if isinstance(found, torch.Tensor) else f"a {type(found).__name__}"


def _on_meta(module: nn.Module, images: torch.Tensor) -> object:
    named = dict(module.named_parameters()) | dict(module.named_buffers())
    return functional_call(module, {k: v.to("meta") for k, v in named.items()}, (images,))


def refuse_sides(module: nn.Module, name: str, channels: int, sides: Mapping[int, str]) -> None:
    """Refuse sides at which a backbone cannot encode images, before the first step.

    Args:
        module: the backbone.
        name: its name.
        channels: of the images.
        sides: each side in pixels, and the flag that asks for it.

    Raises:
        ValueError: naming the backbone, the side, the flag, and the module's own reason.
    """
    for side, flag in sides.items():
        try:
            shape = output_shape(module, channels, side)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f"--backbone {name} cannot take views of {side} pixels ({flag}): {reason}"
            ) from error
        if isinstance(shape, str) or len(shape) != 2 or shape[0] != ROWS:
            found = shape if isinstance(shape, str) else tuple(shape)
            raise ValueError(
                f"--backbone {name} turns {ROWS} images of {side} pixels ({flag}) into {found}; a "
                "backbone returns one row of features for each image, (n, d)"
            )
