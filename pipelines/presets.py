"""The published augmentations by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pipelines.views import View


def _moco_v1(size: int) -> tuple[View, ...]:
    view = View(size, jitter=(0.4, 0.4, 0.4, 0.4), jitter_prob=1.0, gray_first=True)
    return (view, view)


def _moco_v2(size: int) -> tuple[View, ...]:
    return (View(size, blur=0.5),) * 2


def _simclr(size: int) -> tuple[View, ...]:
    return (View(size, scale=(0.08, 1.0), jitter=(0.8, 0.8, 0.8, 0.2), blur=0.5),) * 2


def _byol(size: int) -> tuple[View, ...]:
    view = View(size, scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.2, 0.1))
    return (replace(view, blur=1.0), replace(view, blur=0.1, solarize=0.2))


def _swav(size: int) -> tuple[View, ...]:
    large = View(size, scale=(0.14, 1.0), jitter=(0.8, 0.8, 0.8, 0.2), blur=0.5)
    small = replace(large, size=max(round(size * 96 / 224), 8), scale=(0.05, 0.14))
    return (large,) * 2 + (small,) * 6


def _moco_v3(size: int) -> tuple[View, ...]:
    first, second = _byol(size)
    return (replace(first, scale=(0.2, 1.0)), replace(second, scale=(0.2, 1.0)))


def _dino(size: int) -> tuple[View, ...]:
    first, second = (replace(view, scale=(0.14, 1.0)) for view in _byol(size))
    small = replace(first, size=max(round(size * 96 / 224), 8), scale=(0.05, 0.14), blur=0.5)
    return (first, second) + (small,) * 6


def _dino_vit(size: int) -> tuple[View, ...]:
    first, second, small, *_ = _dino(size)
    large = (replace(first, scale=(0.4, 1.0)), replace(second, scale=(0.4, 1.0)))
    return large + (replace(small, scale=(0.05, 0.4)),) * 8


def _simsiam_cifar(size: int) -> tuple[View, ...]:
    return (View(size),) * 2


def _cifar(size: int) -> tuple[View, ...]:
    return (View(size, scale=(0.08, 1.0)),) * 2


def _swav_cifar(size: int) -> tuple[View, ...]:
    return (View(size, scale=(0.14, 1.0)),) * 2


def _whitening(size: int) -> tuple[View, ...]:
    return (View(size, gray=0.1),) * 2


def _asym(size: int) -> tuple[View, ...]:
    query = View(size, blur=0.5, rand_augment=(2.0, 10.0, 0.5))
    return (query, View(size, scale=(0.08, 1.0), jitter_prob=0.0, gray=0.0))


def _cmc(size: int) -> tuple[View, ...]:
    return (View(size, scale=(0.08, 1.0), jitter_prob=0.0, gray=0.0),)


def _insdis(size: int) -> tuple[View, ...]:
    return (replace(_moco_v1(size)[0], scale=(0.08, 1.0)),)


PRESETS: dict[str, Callable[[int], tuple[View, ...]]] = {
    "moco-v1": _moco_v1,  # He 2020, arXiv:1911.05722
    "moco-v2": _moco_v2,  # Chen 2020, arXiv:2003.04297
    "simclr": _simclr,  # Chen 2020, arXiv:2002.05709, appendix A
    "byol": _byol,  # Grill 2020, arXiv:2006.07733, table 6: two different views
    "swav": _swav,  # Caron 2020, arXiv:2006.09882: 2 large and 6 small crops
    "moco-v3": _moco_v3,  # Chen 2021, arXiv:2104.02057: BYOL's, crop scale at least 0.2
    "dino": _dino,  # Caron 2021, arXiv:2104.14294: BYOL's as multi-crop, ResNet-50's scales
    "dino-vit": _dino_vit,  # the same with the released scales of ViTs, and 8 small crops
    "asym": _asym,  # Wang 2022, arXiv:2204.00613: MoCo-v2's and RandAugment; the key: crop and flip
    "simsiam-cifar": _simsiam_cifar,  # Chen 2021, arXiv:2011.10566, appendix D: MoCo-v2's, no blur
    "cifar": _cifar,  # Un-Mix's MoCo on CIFAR (Shen 2022, arXiv:2003.05438)
    "swav-cifar": _swav_cifar,  # Un-Mix's SwAV on CIFAR
    "cmc": _cmc,  # CMC's single crop; luminance and colour are the views (arXiv:1906.05849)
    "insdis": _insdis,  # InsDis' single crop, in the code released with CMC
    "whitening": _whitening,  # W-MSE's CIFAR, STL-10 and Tiny ImageNet (arXiv:2007.06346)
}
