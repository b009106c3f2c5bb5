"""The augmenter of a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from pipelines.augment import reference, triton
from pipelines.augment.channels import ChannelAugmenter
from pipelines.augment.cpu import CpuAugmenter
from pipelines.augment.params import ViewParams, draw_params
from pipelines.augment.randaugment import RandAugmenter
from pipelines.augment.reference import Images
from pipelines.rng import RowRng
from pipelines.system.device_path import DevicePath
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

    On a GPU these are the Triton kernels, or PyTorch if they do not prove themselves there
    (``FUSED_AUGMENTATION``). ``workers`` is the number of threads on the host. ``rand_augment``: a
    view has RandAugment.

    Raises:
        ValueError: RandAugment is asked for, and the images are not RGB.
        PathRefused: the kernels cannot be used, and ``--device-paths fused`` asks for them.
    """
    if rand_augment and channels != 3:
        raise ValueError(
            f"RandAugment changes the colours of RGB images; these have {channels} channels: "
            "--aug.rand-augment 0 10 0.5 leaves it out"
        )
    rgb: Augmenter[Any] = CpuAugmenter(workers) if device.type == "cpu" else gpu_augmenter(device)
    if rand_augment:
        return RandAugmenter(rgb)
    return rgb if channels == 3 else ChannelAugmenter(rgb, channels)


def gpu_augmenter(device: torch.device) -> Augmenter[Any]:
    """Return the Triton kernels if they have proved themselves on ``device``, else PyTorch."""
    return triton if FUSED_AUGMENTATION.usable(device) else reference


SAMPLE = View(
    33,
    scale=(1.0, 1.0),
    jitter=(0.8, 0.8, 0.8, 0.2),
    gray=0.3,
    blur=0.6,
    solarize=0.3,
    vertical_flip=0.5,
    rotate90=0.5,
)
"""Every operation, on images of more than one tile and of an odd side."""
SAMPLE_ROWS = 12


def sample_params() -> ViewParams:
    """Return the parameters of the rows of ``SAMPLE``."""
    rows, side = np.arange(SAMPLE_ROWS), np.full(SAMPLE_ROWS, SAMPLE.size, np.int32)
    return draw_params(SAMPLE, 0, RowRng(0, 0), rows, side, side)


def augment_sample(augmenter: Augmenter[Any], device: torch.device) -> list[Tensor]:
    """Return the views of ``SAMPLE`` that an augmenter makes on a device, not normalized."""
    shape = (SAMPLE_ROWS, SAMPLE.size, SAMPLE.size, 3)
    crops = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    plan = augmenter.plan(SAMPLE, sample_params()).to(device)
    return [augmenter.augment(crops.to(device), plan, (0.0,) * 3, (1.0,) * 3)]


FUSED_AUGMENTATION = DevicePath(
    "fused augmentation",
    fast=lambda device: augment_sample(triton, device),
    plain=lambda device: augment_sample(reference, device),
    tolerance=1e-4,  # a fortieth of a grey level; the tests allow a tenth of this
    missing=triton.why_missing,
)
