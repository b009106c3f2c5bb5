"""Augmentation of images with another number of channels than three, by any augmenter of RGB.

Gray images are augmented as RGB images of three equal channels, of which one is kept. The channels
of multi-band images are augmented three at a time with the same flip and blur; the colour
operations apply to the first three only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from pipelines.augment.params import ViewParams
from pipelines.augment.reference import Images
from pipelines.views import View


@dataclass(frozen=True, slots=True)
class ChannelPlan:
    """The plan of the first three channels, and that of all others, None without others."""

    first: Any
    others: Any | None

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors of both plans."""
        yield from self.first.tensors()
        if self.others is not None:
            yield from self.others.tensors()

    def to(self, device: torch.device) -> ChannelPlan:
        """Return the plan on ``device``; the host never waits."""
        others = None if self.others is None else self.others.to(device)
        return ChannelPlan(self.first.to(device), others)


class ChannelAugmenter:
    """Augments images of 1, 2, 4 or more channels by an augmenter of RGB images."""

    def __init__(self, rgb: Any, channels: int) -> None:
        self.rgb, self.channels = rgb, channels

    def plan(self, view: View, params: ViewParams) -> ChannelPlan:
        """Return the augmentations of each row of a view."""
        gray, plain = without_hue(view, params), without_color(view, params)
        if self.channels == 1:
            return ChannelPlan(self.rgb.plan(*gray), None)
        if self.channels == 2:
            return ChannelPlan(self.rgb.plan(*plain), None)
        return ChannelPlan(self.rgb.plan(view, params), self.rgb.plan(*plain))

    def augment(
        self,
        crops: UInt8[Tensor, "n h w c"],
        plan: ChannelPlan,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> Images:
        """Return the augmented, normalized view in channels_last memory.

        Raises:
            ValueError: the crops have another number of channels.
        """
        if crops.shape[3] != self.channels:
            raise ValueError(f"crops {tuple(crops.shape)} have not {self.channels} channels")
        made = []
        for begin in range(0, self.channels, 3):
            own = slice(begin, min(begin + 3, self.channels))
            count = own.stop - own.start
            fill = [own.start + min(c, count - 1) for c in range(3)]  # repeats the last channel
            part = torch.stack([crops[..., c] for c in fill], 3)
            numbers = [[values[c] for c in fill] for values in (mean, std)]
            chosen = plan.first if begin == 0 or plan.others is None else plan.others
            made.append(self.rgb.augment(part, chosen, *numbers)[:, :count])
        return torch.cat(made, 1).contiguous(memory_format=torch.channels_last)


def without_hue(view: View, params: ViewParams) -> tuple[View, ViewParams]:
    """Leave out what changes no gray image: saturation, hue and grayscale."""
    brightness, contrast, _, _ = view.jitter
    view = replace(view, jitter=(brightness, contrast, 0.0, 0.0))
    return view, replace(params, gray=np.zeros_like(params.gray))


def without_color(view: View, params: ViewParams) -> tuple[View, ViewParams]:
    """Leave out every operation on colour and brightness; flips and blurs stay."""
    off = np.zeros_like(params.gray)
    return view, replace(params, jitter=off, gray=off, solarize=off)
