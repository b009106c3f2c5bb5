"""The hand-written GPU code that a run uses, proved before its first step."""

from __future__ import annotations

import torch
from torch import nn

from pipelines.augment.build import FUSED_AUGMENTATION
from pipelines.decoders import Decoder
from pipelines.system.device_path import DevicePath, summary
from pipelines.system.transfer import SIDE_STREAM


def paths_of(method: nn.Module, decoder: Decoder) -> list[DevicePath]:
    """Return the paths of a run: its loader's, its decoder's, and those of its layers.

    A layer or decoder names its own by an attribute ``device_path`` (None: it has none).
    """
    owners = [decoder, *method.modules()]
    own = [getattr(owner, "device_path", None) for owner in owners]
    return [SIDE_STREAM, FUSED_AUGMENTATION, *dict.fromkeys(path for path in own if path)]


def prove(method: nn.Module, decoder: Decoder, device: torch.device) -> list[str]:
    """Compare the paths of a run with PyTorch; return the line that says which are used.

    All processes call it before the first step, so that no step waits for a comparison. On the
    host there is none.

    Raises:
        PathRefused: one cannot be used, and ``--device-paths fused`` asks for it.
    """
    if device.type == "cpu":
        return []
    return [f"paths     {summary(paths_of(method, decoder), device)}"]
