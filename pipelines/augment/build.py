"""Which code augments crops on a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import UInt8
from torch import Tensor

from pipelines.augment import reference, triton
from pipelines.augment.cpu import CpuAugmenter
from pipelines.augment.params import ViewParams
from pipelines.augment.reference import Images
from pipelines.views import View


@runtime_checkable
class Plan(Protocol):
    """What happens to the rows of one view."""

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors."""

    def to(self, device: torch.device) -> Any:
        """Return the plan on ``device``; the host never waits."""


P = TypeVar("P")


@runtime_checkable
class Augmenter(Protocol[P]):
    """Crops to views in two halves: a plan on the host, arithmetic where the crops are."""

    def plan(self, view: View, params: ViewParams, /) -> P:
        """Return what each row of a view needs."""

    def augment(
        self, crops: UInt8[Tensor, "n h w c"], plan: P, mean: Sequence[float], std: Sequence[float]
    ) -> Images:
        """Return the augmented, normalized view; ``crops`` stay as they were."""


def build_augmenter(device: torch.device, workers: int = 1) -> Augmenter[Any]:
    """Return the fastest augmenter of a device; ``workers`` are threads on the host.

    On a GPU: Triton's kernels where Triton and a C compiler are, else PyTorch.
    """
    if device.type == "cpu":
        return CpuAugmenter(workers)
    return triton if triton.usable() else reference
