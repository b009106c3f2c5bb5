"""RandAugment after all other operations of a view. Cubuk 2019, arXiv:1909.13719.

The operations and their strengths are those of timm's ``rand-mM-nN-mstdD``: of 15 operations N are
drawn with replacement, and each is applied with probability 1/2 at a level from N(M, D), limited to
0 to 10. They work on pixels of 0 to 255 in whole numbers, as Pillow's do, in PyTorch on the view's
device. The host knows which rows each operation touches, so it never waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from pipelines.augment.params import ViewParams
from pipelines.augment.reference import Images, by_channel
from pipelines.system.transfer import to_device
from pipelines.views import View

Levels = Float[Tensor, "n 1 1 1"]
"""Levels of 0 to 10; the sign is the direction of operations that have one."""
FILL = 128.0
"""Gray that is seen where a moved image ends, timm's."""


@dataclass(frozen=True, slots=True)
class RandPlan:
    """The plan of all other operations, and the rows that RandAugment changes after them."""

    before: Any
    rows: Tensor  # (k,)
    turns: tuple[tuple[int, Tensor, Tensor], ...]
    """Operation, its places in ``rows``, its levels, (p, 1, 1, 1); one after the other."""

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors of both plans."""
        yield from self.before.tensors()
        yield self.rows
        for _, places, levels in self.turns:
            yield from (places, levels)

    def to(self, device: torch.device) -> RandPlan:
        """Return the plan on ``device``; the host never waits."""
        turns = ((op, to_device(p, device), to_device(x, device)) for op, p, x in self.turns)
        return RandPlan(self.before.to(device), to_device(self.rows, device), tuple(turns))


class RandAugmenter:
    """An augmenter of RGB images, and RandAugment after it in views that ask for it."""

    def __init__(self, rgb: Any) -> None:
        self.rgb = rgb

    def plan(self, view: View, params: ViewParams) -> RandPlan:
        """Return the augmentations of each row of a view."""
        fired = params.rand_ops >= 0
        rows = np.flatnonzero(fired.any(axis=1))
        turns = []
        for turn in range(params.rand_ops.shape[1]):
            drawn, levels = params.rand_ops[rows, turn], params.rand_levels[rows, turn]
            for op in np.unique(drawn[drawn >= 0]).tolist():
                places = np.flatnonzero(drawn == op)
                level = torch.from_numpy(levels[places]).view(-1, 1, 1, 1)
                turns.append((op, torch.from_numpy(places), level))
        return RandPlan(self.rgb.plan(view, params), torch.from_numpy(rows), tuple(turns))

    def augment(
        self,
        crops: UInt8[Tensor, "n h w c"],
        plan: RandPlan,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> Images:
        """Return the augmented, normalized view in channels_last memory."""
        view: Tensor = self.rgb.augment(crops, plan.before, mean, std)
        if not plan.turns:
            return view
        center, scale = (by_channel(view, values) for values in (mean, std))
        x = view[plan.rows].mul_(scale).add_(center).mul_(255).round_().clamp_(0, 255)
        for op, places, levels in plan.turns:
            x[places] = OPERATIONS[op](x[places], levels)
        view[plan.rows] = x.div_(255).sub_(center).div_(scale)
        return view


def autocontrast(x: Images, _: Levels) -> Images:
    """Stretch each channel to 0 to 255."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    stretched = ((x - low) * 255 / (high - low).clamp(min=1)).floor()
    return torch.where(high > low, stretched, x)


def equalize(x: Images, _: Levels) -> Images:
    """Give each channel an even histogram."""
    values = x.long().flatten(2)
    counts = torch.zeros(*x.shape[:2], 256, dtype=torch.int64, device=x.device)
    counts.scatter_add_(2, values, torch.ones_like(values))
    brightest = counts.gather(2, values.amax(2, keepdim=True))
    step = (values.shape[2] - brightest) // 255
    below = counts.cumsum(2) - counts
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    made = table.gather(2, values).view_as(x).to(x.dtype)
    return torch.where(step[..., None] > 0, made, x)


def invert(x: Images, _: Levels) -> Images:
    """Return the negative."""
    return 255 - x


def rotate(x: Images, levels: Levels) -> Images:
    """Rotate by up to 30 degrees about the centre."""
    angle = levels * (-math.radians(30) / 10)
    cos, sin, half_h, half_w = angle.cos(), angle.sin(), x.shape[2] / 2, x.shape[3] / 2
    right = half_w - half_w * cos - half_h * sin
    down = half_h + half_w * sin - half_h * cos
    return _moved(x, (cos, sin, right), (-sin, cos, down))


def posterize(x: Images, levels: Levels) -> Images:
    """Keep the highest bits of each value, four at level 10."""
    step = 2 ** (8 - (levels.abs() / 10 * 4).floor())
    return (x / step).floor() * step


def solarize(x: Images, levels: Levels) -> Images:
    """Invert values from a threshold on, 256 at level 10."""
    return torch.where(x >= (levels.abs() / 10 * 256).floor(), 255 - x, x)


def solarize_add(x: Images, levels: Levels) -> Images:
    """Add up to 110 to values below 128."""
    return torch.where(x < 128, x + (levels.abs() / 10 * 110).floor(), x).clamp_(max=255)


def color(x: Images, levels: Levels) -> Images:
    """Blend with the gray image."""
    return _enhanced(x, _gray(x), levels)


def contrast(x: Images, levels: Levels) -> Images:
    """Blend with the mean gray."""
    mean = _gray(x).mean((2, 3), keepdim=True, dtype=torch.float64)
    return _enhanced(x, (mean + 0.5).floor().to(x.dtype), levels)


def brightness(x: Images, levels: Levels) -> Images:
    """Blend with black."""
    return _enhanced(x, torch.zeros_like(x), levels)


def sharpness(x: Images, levels: Levels) -> Images:
    """Blend with the image smoothed over 3 by 3 pixels; the border stays."""
    smooth = x.clone()
    around = F.avg_pool2d(x, 3, stride=1, divisor_override=1)
    inner = x[:, :, 1:-1, 1:-1]
    smooth[:, :, 1:-1, 1:-1] = ((around + 4 * inner) / 13 + 0.5).floor()
    return _enhanced(x, smooth, levels)


def shear_x(x: Images, levels: Levels) -> Images:
    """Move rows to the side, by up to 0.3 pixels each."""
    return _moved(x, (1, levels * 0.03, 0), (0, 1, 0))


def shear_y(x: Images, levels: Levels) -> Images:
    """Move columns up or down, by up to 0.3 pixels each."""
    return _moved(x, (1, 0, 0), (levels * 0.03, 1, 0))


def translate_x(x: Images, levels: Levels) -> Images:
    """Move the image to the side, by up to 45 % of its width."""
    return _moved(x, (1, 0, levels * (0.045 * x.shape[3])), (0, 1, 0))


def translate_y(x: Images, levels: Levels) -> Images:
    """Move the image up or down, by up to 45 % of its height."""
    return _moved(x, (1, 0, 0), (0, 1, levels * (0.045 * x.shape[2])))


OPERATIONS: tuple[Callable[[Images, Levels], Images], ...] = (
    *(autocontrast, equalize, invert, rotate, posterize, solarize, solarize_add),
    *(color, contrast, brightness, sharpness, shear_x, shear_y, translate_x, translate_y),
)
"""In timm's order; ``params.RAND_OPERATIONS`` is their number."""


def _gray(x: Images) -> Float[Tensor, "n 1 h w"]:
    """Return Pillow's luma, rounded."""
    r, g, b = x.unbind(1)
    return ((19595 * r + 38470 * g + 7471 * b + 32768) / 65536).floor().unsqueeze(1)


def _enhanced(x: Images, plain: Tensor, levels: Levels) -> Images:
    """Blend: level 0 is nearly ``plain``, 5 the image, 10 as far beyond it."""
    factor = (levels.abs().double() / 10 * 1.8 + 0.1).float()
    return (plain + factor * (x - plain)).clamp_(0, 255).floor()


def _moved(x: Images, across: Sequence[Any], down: Sequence[Any]) -> Images:
    """Show at (i, j) what lies at ``across . (i, j, 1)``, ``down . (i, j, 1)``; i is horizontal.

    Both are positions of pixel centres. The filter is bilinear; outside the image it is gray.
    """
    height, width = x.shape[2:]
    j = torch.arange(height, device=x.device).add(0.5).view(1, -1, 1, 1)
    i = torch.arange(width, device=x.device).add(0.5).view(1, 1, -1, 1)
    zero = x.new_zeros(len(x), height, width, 1)
    right, below = (a * i + b * j + c + zero for a, b, c in (across, down))
    grid = torch.cat((2 * right / width - 1, 2 * below / height - 1), 3)
    moved = F.grid_sample(x, grid, padding_mode="border", align_corners=False).round_()
    inside = (right >= 0) & (right < width) & (below >= 0) & (below < height)
    return torch.where(inside.permute(0, 3, 1, 2), moved, FILL)
