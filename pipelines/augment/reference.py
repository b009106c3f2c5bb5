"""Reference augmentation in PyTorch: flip, turn, colour, blur, normalize, on any device.

``plan`` turns the parameters into a few tensors on the host (rows and factors), so that ``augment``
never reads a value back from the device. Values stay in [0, 1] and are not rounded. Each operation
equals torchvision's float version at the same parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipelines.augment.operations import BRIGHTNESS, CONTRAST, HUE, LUMA, SATURATION
from pipelines.augment.params import ViewParams
from pipelines.system.transfer import to_device
from pipelines.views import View

Images = Float[Tensor, "n c h w"]
Column = Float[Tensor, "n 1 1 1"]


@dataclass(frozen=True, slots=True)
class AugmentPlan:
    """The augmentations of one view, with all tensors on the crops' device.

    ``jitter`` holds up to 4 rounds of 4 (rows, factors); a row takes part once in each round.
    """

    flip: Tensor  # (n, 1, 1, 1) bool
    gray_first: bool
    gray: Tensor  # (g,) rows
    jitter: tuple[tuple[int, Tensor, Tensor], ...]  # (operation, rows (k,), factors (k, 1, 1, 1))
    blur: Tensor  # (b,) rows
    kernels: Tensor  # (b, taps)
    solarize: Tensor  # (s,) rows
    upside_down: Tensor  # (u,) rows
    transposed: Tensor  # (t,) rows, after both flips

    @staticmethod
    def nothing(num_rows: int, device: torch.device) -> AugmentPlan:
        """Return the plan that only normalizes."""
        none = torch.zeros(0, dtype=torch.int64, device=device)
        flip = torch.zeros(num_rows, 1, 1, 1, dtype=torch.bool, device=device)
        kernels = torch.zeros(0, 1, device=device)
        return AugmentPlan(flip, False, none, (), none, kernels, none, none, none)

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors of the plan."""
        yield from (self.flip, self.gray, self.blur, self.kernels, self.solarize)
        yield from (self.upside_down, self.transposed)
        for _, rows, factors in self.jitter:
            yield from (rows, factors)

    def to(self, device: torch.device) -> AugmentPlan:
        """Return the plan on ``device``; the host never waits."""
        move = partial(to_device, device=device)
        return AugmentPlan(
            flip=move(self.flip),
            gray_first=self.gray_first,
            gray=move(self.gray),
            jitter=tuple((op, move(rows), move(by)) for op, rows, by in self.jitter),
            blur=move(self.blur),
            kernels=move(self.kernels),
            solarize=move(self.solarize),
            upside_down=move(self.upside_down),
            transposed=move(self.transposed),
        )


def plan(view: View, params: ViewParams) -> AugmentPlan:
    """Group the parameters of one view by operation."""
    jitter = []
    for turn in range(4):
        for op in range(4):
            rows = np.flatnonzero(params.jitter & (params.order[:, turn] == op))
            if len(rows) and view.jitter[op]:
                factor = torch.from_numpy(params.factor[rows, op])
                jitter.append((op, torch.from_numpy(rows), factor.view(-1, 1, 1, 1)))
    blur = np.flatnonzero(params.sigma)
    mirrored, upside_down, transposed = params.orientation()
    return AugmentPlan(
        flip=torch.from_numpy(mirrored).view(-1, 1, 1, 1),
        gray_first=view.gray_first,
        gray=torch.from_numpy(np.flatnonzero(params.gray)),
        jitter=tuple(jitter),
        blur=torch.from_numpy(blur),
        kernels=torch.from_numpy(gaussian_kernels(params.sigma[blur], view)),
        solarize=torch.from_numpy(np.flatnonzero(params.solarize)),
        upside_down=torch.from_numpy(np.flatnonzero(upside_down)),
        transposed=torch.from_numpy(np.flatnonzero(transposed)),
    )


def gaussian_kernels(sigma: NDArray[np.float32], view: View) -> NDArray[np.float32]:
    """Return normalized Gaussians, (b, taps), of 4 sigma each side, or cut off at the image."""
    reach = min(int(4 * view.blur_sigma[1]), view.size - 1)
    x = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (x / sigma[:, None].astype(np.float64)) ** 2)
    kernels: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return kernels.astype(np.float32)


def augment(
    crops: UInt8[Tensor, "n h w c"], plan: AugmentPlan, mean: Sequence[float], std: Sequence[float]
) -> Images:
    """Return the augmented view, float32 in channels_last memory; ``crops`` are not changed.

    ``mean`` and ``std`` normalize values in [0, 1].
    """
    x = crops.permute(0, 3, 1, 2).float().div_(255)
    x = torch.where(plan.flip, x.flip(-1), x)
    _update(x, plan.upside_down, lambda rows: rows.flip(-2))
    _update(x, plan.transposed, lambda rows: rows.transpose(-1, -2))
    if plan.gray_first:
        _update(x, plan.gray, grayscale)
    for op, rows, factor in plan.jitter:
        x[rows] = JITTER[op](x[rows], factor)
    if not plan.gray_first:
        _update(x, plan.gray, grayscale)
    if len(plan.blur):
        x[plan.blur] = blur(x[plan.blur], plan.kernels)
    _update(x, plan.solarize, solarize)
    center, scale = (by_channel(x, v) for v in (mean, std))
    return x.sub_(center).div_(scale)


def by_channel(x: Images, values: Sequence[float]) -> Float[Tensor, "1 c 1 1"]:
    """One number per channel, filled on the device, since the host would wait for a copy."""
    return torch.stack([x.new_full((1, 1), v) for v in values]).unsqueeze(0)


def _update(x: Images, rows: Tensor, operation: Callable[[Images], Images]) -> None:
    if len(rows):
        x[rows] = operation(x[rows])


def luma(x: Images) -> Float[Tensor, "n 1 h w"]:
    """Return the weighted mean of red, green and blue."""
    r, g, b = x.unbind(1)
    return (LUMA[0] * r + LUMA[1] * g + LUMA[2] * b).unsqueeze(1)


def grayscale(x: Images) -> Images:
    """Replace each pixel's colour by its luma."""
    return luma(x).expand_as(x)


def solarize(x: Images) -> Images:
    """Invert the values of one half and more."""
    return torch.where(x >= 0.5, 1 - x, x)


def brightness(x: Images, factor: Column) -> Images:
    """Blend with black: ``clamp(factor x)``."""
    return (x * factor).clamp_(0, 1)


def contrast(x: Images, factor: Column) -> Images:
    """Blend with the image's mean luma: ``clamp(factor x + (1 - factor) mean)``."""
    mean = luma(x).mean((2, 3), keepdim=True)
    return torch.lerp(mean, x, factor).clamp_(0, 1)


def saturation(x: Images, factor: Column) -> Images:
    """Blend with the grayscale image: ``clamp(factor x + (1 - factor) luma)``."""
    return torch.lerp(luma(x), x, factor).clamp_(0, 1)


def hue(x: Images, turns: Column) -> Images:
    """Rotate the hue by ``turns`` of the HSV circle.

    No conversion to HSV is needed: with value v, chroma c and hexagonal hue h, a channel is
    ``v - c max(0, min(k, 4 - k, 1))``, ``k = (o + 6 h) mod 6``, o = 5, 3, 1 for red, green, blue.
    """
    r, g, b = x.unbind(1)
    value = x.amax(1)
    chroma = value - x.amin(1)
    safe = torch.where(chroma > 0, chroma, 1.0)
    sector = torch.where(
        value == r,
        (g - b) / safe,
        torch.where(value == g, (b - r) / safe + 2, (r - g) / safe + 4),
    )
    sector = sector + 6 * turns[:, 0]  # (n, h, w)
    offset = by_channel(x, (5.0, 3.0, 1.0))
    k = (offset + sector[:, None]).remainder(6)
    ramp = torch.minimum(k, 4 - k).clamp_(0, 1)
    return value[:, None] - chroma[:, None] * ramp


def blur(x: Images, kernels: Float[Tensor, "n taps"]) -> Images:
    """Convolve each image with its own separable kernel, mirrored at the borders."""
    n, c, h, w = x.shape
    taps = kernels.shape[1]
    reach = taps // 2
    planes = F.pad(x, (reach, reach, reach, reach), mode="reflect")
    planes = planes.contiguous().view(1, n * c, h + 2 * reach, w + 2 * reach)
    weight = kernels.repeat_interleave(c, 0)
    planes = F.conv2d(planes, weight.view(n * c, 1, taps, 1), groups=n * c)
    planes = F.conv2d(planes, weight.view(n * c, 1, 1, taps), groups=n * c)
    return planes.view(n, c, h, w)


JITTER = {BRIGHTNESS: brightness, CONTRAST: contrast, SATURATION: saturation, HUE: hue}
