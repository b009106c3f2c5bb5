"""A conventional loader: PIL images, torchvision's transforms and a ``DataLoader``."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode, v2

from pipelines.sampler import Sampler
from pipelines.settings import Interpolation
from pipelines.sources.table import Table
from pipelines.system.workers import main_hidden
from pipelines.views import View


class Images(Dataset):
    """A data set of PIL images, each transformed into its views."""

    def __init__(self, table: Table, transform: Callable[[Image.Image], object]) -> None:
        # A fresh table: one that has been read holds a memory map, which cannot be sent to workers
        self.table, self.transform = table.take(np.arange(len(table))), transform

    def __getitem__(self, row: int) -> object:
        """Return the views of a row."""
        data = self.table.source.encoded(row)
        if data is None:
            return self.transform(Image.fromarray(self.table.source.pixels(row)))
        with Image.open(io.BytesIO(data.tobytes())) as image:
            return self.transform(image.convert("RGB"))


class Workers:
    """A ``DataLoader`` whose ``workers`` processes live from the first batch to ``close``."""

    def __init__(
        self,
        table: Table,
        order: Sampler,
        workers: int,
        transform: Callable[[Image.Image], object],
        *,
        pin: bool = False,
    ) -> None:
        self.order = order
        self.warm = self.tail = workers
        self.batches: list[list[int]] = []
        self.loader = DataLoader(
            Images(table, transform),
            batch_sampler=self.batches,
            num_workers=workers,
            persistent_workers=True,
            pin_memory=pin,
            multiprocessing_context="forkserver",
        )

    def run(self, steps: int) -> Iterator[Any]:
        """Return an iterator over an epoch of ``steps`` batches."""
        self.batches[:] = [self.order.rows(step).tolist() for step in range(steps)]
        with main_hidden():
            return iter(self.loader)

    def close(self) -> None:
        """End the worker processes."""
        iterator, self.loader._iterator = self.loader._iterator, None
        if iterator is not None:
            iterator._shutdown_workers()  # type: ignore[attr-defined]


def each_view(image: Image.Image, transforms: list[v2.Compose]) -> list[Tensor]:
    """Return the views of an image, which is decoded only once."""
    return [transform(image) for transform in transforms]


def blur(image: Image.Image, sigma: tuple[float, float]) -> Image.Image:
    """Blur as MoCo v2's own code does, by PIL, several times faster than ``v2.GaussianBlur``."""
    return image.filter(ImageFilter.GaussianBlur(float(torch.empty(1).uniform_(*sigma))))


def torchvision_view(
    view: View, interpolation: Interpolation, mean: Sequence[float], std: Sequence[float]
) -> v2.Compose:
    """Return the transform of torchvision's manual for this view; PIL's resize antialiases.

    Without ``mean`` and ``std`` it only crops and flips, to uint8.

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
    crop = v2.RandomResizedCrop(view.size, view.scale, view.ratio, mode)
    flip = v2.RandomHorizontalFlip(view.flip)
    if not mean:
        return v2.Compose([crop, flip, v2.PILToTensor()])
    color: list[nn.Module] = [
        v2.RandomApply([v2.ColorJitter(*view.jitter)], view.jitter_prob),
        v2.RandomGrayscale(view.gray),
    ]
    if view.blur:
        blurring = v2.Lambda(partial(blur, sigma=view.blur_sigma))
        color.append(v2.RandomApply([blurring], view.blur))
    floats = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    return v2.Compose([crop, *color, flip, *floats, v2.Normalize(list(mean), list(std))])
