"""The augmenter of a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import UInt8
from torch import Tensor

from pipelines.augment import reference, triton
from pipelines.augment.channels import ChannelAugmenter
from pipelines.augment.cpu import CpuAugmenter
from pipelines.augment.params import ViewParams
from pipelines.augment.randaugment import RandAugmenter
from pipelines.augment.reference import Images
from pipelines.views import View


@runtime_checkable
class Plan(Protocol):
    """The augmentations of the rows of one view."""

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors."""

    def to(self, device: torch.device) -> Any:
        """Return the plan on ``device``; the host never waits."""


P = TypeVar("P")


@runtime_checkable
class Augmenter(Protocol[P]):
    """Turns crops into views in two steps: a plan on the host, arithmetic on the crops' device."""

    def plan(self, view: View, params: ViewParams, /) -> P:
        """Return the augmentations of each row of a view."""

    def augment(
        self, crops: UInt8[Tensor, "n h w c"], plan: P, mean: Sequence[float], std: Sequence[float]
    ) -> Images:
        """Return the augmented, normalized view; ``crops`` are not changed."""


def build_augmenter(
    device: torch.device, workers: int = 1, channels: int = 3, *, rand_augment: bool = False
) -> Augmenter[Any]:
    """Return the fastest augmenter of a device for images of this number of channels.

    On a GPU these are the Triton kernels, or PyTorch if Triton or a C compiler is missing.
    ``workers`` is the number of threads on the host. ``rand_augment``: a view has RandAugment.

    Raises:
        ValueError: RandAugment is asked for, and the images are not RGB.
    """
    if rand_augment and channels != 3:
        raise ValueError(
            f"RandAugment changes the colours of RGB images; these have {channels} channels: "
            "--aug.rand-augment 0 10 0.5 leaves it out"
        )
    rgb: Augmenter[Any]
    if device.type == "cpu":
        rgb = CpuAugmenter(workers)
    else:
        rgb = triton if triton.usable() else reference
    if rand_augment:
        return RandAugmenter(rgb)
    return rgb if channels == 3 else ChannelAugmenter(rgb, channels)
