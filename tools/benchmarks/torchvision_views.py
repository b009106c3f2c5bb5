"""The transform of a view in torchvision's own operations, for PIL images and for tensors.

Worker processes of other libraries import this file: it needs torch, torchvision and Pillow only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2

from pipelines.settings import Interpolation
from pipelines.views import View


def each_view(image: Image.Image | Tensor, transforms: list[v2.Compose]) -> list[Tensor]:
    """Return the views of an image, which is decoded only once."""
    return [transform(image) for transform in transforms]


def blur(image: Image.Image, sigma: tuple[float, float]) -> Image.Image:
    """Blur as MoCo v2's own code does, by PIL, several times faster than ``v2.GaussianBlur``."""
    return image.filter(ImageFilter.GaussianBlur(float(torch.empty(1).uniform_(*sigma))))


def torchvision_view(
    view: View, interpolation: Interpolation, mean: Sequence[float], std: Sequence[float]
) -> v2.Compose:
    """Return the transform of torchvision's manual for this view.

    It takes a PIL image, whose resize always antialiases, or a uint8 tensor (3, h, w), which
    antialiases unless ``interpolation`` is "bilinear". Without ``mean`` and ``std`` it only crops
    and flips, to uint8. Colour and blur are PIL's in both cases: on tensors they cost more.

    Raises:
        ValueError: the view solarizes or turns images, or has RandAugment.
    """
    if view.solarize:
        raise ValueError("this pipeline of torchvision's transforms does not solarise")
    if view.rand_augment[0]:
        raise ValueError(
            "this pipeline of torchvision's transforms has no RandAugment: leave out --views asym "
            "and --aug.rand-augment"
        )
    if view.vertical_flip or view.rotate90:
        raise ValueError(
            "this pipeline of torchvision's transforms turns no images: leave out "
            "--aug.vertical-flip and --aug.rotate90"
        )
    cubic = interpolation == "bicubic"
    mode = InterpolationMode.BICUBIC if cubic else InterpolationMode.BILINEAR
    smooth = interpolation != "bilinear"
    crop = v2.RandomResizedCrop(view.size, view.scale, view.ratio, mode, antialias=smooth)
    flip = v2.RandomHorizontalFlip(view.flip)
    if not mean:
        return v2.Compose([crop, flip, v2.PILToTensor()])
    color: list[nn.Module] = [
        v2.ToPILImage(),
        v2.RandomApply([v2.ColorJitter(*view.jitter)], view.jitter_prob),
        v2.RandomGrayscale(view.gray),
    ]
    if view.blur:
        blurring = v2.Lambda(partial(blur, sigma=view.blur_sigma))
        color.append(v2.RandomApply([blurring], view.blur))
    floats = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    return v2.Compose([crop, *color, flip, *floats, v2.Normalize(list(mean), list(std))])
