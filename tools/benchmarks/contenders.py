"""The loaders that ``tools/bench.py loaders`` compares: ours and those of other libraries.

Every contender makes batches of the same images in the same order, with the same number of threads
(processes for a DataLoader) and the same ranges of crops; other libraries draw their own random
numbers. A finished batch holds:

- crops only: uint8, cropped, resized and half of them flipped;
- complete augmentation: float32, cropped, flipped, with color jitter, gray, blur, and normalized.
"""

from __future__ import annotations

import gc
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr
from functools import partial
from typing import Any, no_type_check

import numpy as np
import torch
from torch import Tensor

from pipelines.data_facts import IMAGENET
from pipelines.decoders import Decoder, MissingPackage
from pipelines.decoders.build import build_decoder
from pipelines.loader import Loader
from pipelines.rng import RowRng
from pipelines.sources.beton import Beton
from pipelines.step_maker import StepMaker
from pipelines.system.jit import jit
from pipelines.system.stored_file import LocalFile
from pipelines.views import ViewPlan
from tools.benchmarks.harness import Contender
from tools.benchmarks.opponents import NAMES, Opponent
from tools.benchmarks.setting import Setting
from tools.benchmarks.torch_loader import Workers
from tools.benchmarks.torchvision_views import each_view, torchvision_view
from tools.benchmarks.windows import draw_windows

NO_FFCV = "the package ffcv is not installed"
STOCK_AHEAD = 3
"""Number of batches that stock FFCV prepares in advance (its default)."""
MOST_STEPS = 4096
"""Number of batches of a stock FFCV loader, which must be given when it is created."""
COLOUR_FREE: dict[str, Any] = {"jitter_prob": 0.0, "gray": 0.0, "blur": 0.0, "solarize": 0.0}


class Ours:
    """One of our decoders: crop and flip, or the whole ``Loader``."""

    warm, tail = 4, 0

    def __init__(self, setting: Setting, name: str) -> None:
        self.setting = setting
        table = setting.beton if name == "ffcv" else setting.table
        if table is None:
            raise MissingPackage(NO_FFCV)
        self.table = table
        self.decoder: Decoder = build_decoder(
            name, table, interpolation=setting.interpolation, workers=setting.workers,
            device=torch.device("cpu"), on_bad="stop",
        )  # fmt: skip
        self.pool = ThreadPoolExecutor(setting.workers)

    def run(self, steps: int) -> Iterator[object]:
        """Return an iterator over batches from step 0 on."""
        one = self.setting
        if one.complete:
            plan, facts = ViewPlan(one.views), IMAGENET
            made = self.table, one.order, plan, self.decoder, facts.mean, facts.std
            return Loader(StepMaker(*made, workers=one.workers)).batches(0, steps)
        return map(self._crops, range(steps))

    def _crops(self, step: int) -> list[Tensor]:
        order = self.setting.order
        rows, rng = order.rows(step), RowRng(order.seed, order.epoch(step))
        drawn, windows = draw_windows(self.table, rows, self.setting.views, rng)
        with self.table.source.held(rows):
            crops = self.decoder(rows, windows)
        for view, one in zip(crops, drawn, strict=True):
            parts = np.array_split(np.flatnonzero(one.flip), self.setting.workers)
            list(self.pool.map(partial(mirror, view.numpy()), parts))
        return crops

    def close(self) -> None:
        """End the decoder's threads."""
        self.decoder.close()
        self.pool.shutdown()


class DecodeOnly(Ours):
    """The upper bound: our compiled ffcv decoder without any crops."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting, "ffcv")

    def run(self, steps: int) -> Iterator[object]:
        """Only decode."""
        for step in range(steps):
            rows = self.setting.order.rows(step)
            with self.table.source.held(rows):
                self.decoder(rows, [])
            yield step


@jit
@no_type_check
def mirror(images, rows):
    """Flip these rows of ``images`` (n, s, s, 3) left to right, in place."""
    size = images.shape[2]
    for row in rows:
        for y in range(images.shape[1]):
            for x in range(size // 2):
                for c in range(3):
                    left = images[row, y, x, c]
                    images[row, y, x, c] = images[row, y, size - 1 - x, c]
                    images[row, y, size - 1 - x, c] = left


class StockFFCV:
    """FFCV's own loader with a pipeline for each view: decode, crop, flip, as in its manual."""

    warm, tail = STOCK_AHEAD + 2, 0  # the first use of each of its sets of buffers

    def __init__(self, setting: Setting) -> None:
        if setting.complete:
            raise ValueError("has neither color jitter with hue nor blur on the host")
        if setting.beton is None:
            raise MissingPackage(NO_FFCV)
        source = setting.beton.source
        if not (isinstance(source, Beton) and isinstance(source.file, LocalFile)):
            raise ValueError("reads a single .beton, on this disk")
        from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
        from ffcv.loader import Loader as StockLoader
        from ffcv.loader import OrderOption
        from ffcv.pipeline import PipelineSpec
        from ffcv.transforms import RandomHorizontalFlip, ToTensor

        pipelines: dict[str, Any] = {"image": None, "label": None}
        for i, view in enumerate(setting.views):
            decoder = RandomResizedCropRGBImageDecoder((view.size,) * 2, view.scale, view.ratio)
            flip = [RandomHorizontalFlip(view.flip), ToTensor()]
            pipelines[f"view{i}"] = PipelineSpec("image", decoder, flip)
        rows = np.concatenate([setting.order.rows(step) for step in range(MOST_STEPS)])
        self.loader = StockLoader(
            str(source.path),
            batch_size=setting.order.batch_size,
            num_workers=setting.workers,
            os_cache=True,
            order=OrderOption.SEQUENTIAL,  # the rows are in random order already
            indices=setting.beton_rows[rows].astype(np.uint64),
            pipelines=pipelines,
            batches_ahead=STOCK_AHEAD,
        )

    def run(self, steps: int) -> Iterator[object]:
        """Yield the first batches of an epoch; end its thread before the iterator ends."""
        if steps > MOST_STEPS:
            raise ValueError(f"{steps} batches at a time; take a greater --batch-size")
        epoch = iter(self.loader)
        try:
            for _ in range(steps):
                yield next(epoch)
        finally:
            epoch.close()
            epoch.join()

    def close(self) -> None:
        """Free the code and buffers; numba's warnings on stderr are harmless and hidden."""
        del self.loader
        with redirect_stderr(io.StringIO()):
            gc.collect()


def torchvision_workers(setting: Setting) -> Workers:
    """PIL images and torchvision's transforms in a DataLoader."""
    mean, std = (IMAGENET.mean, IMAGENET.std) if setting.complete else ((), ())
    transforms = [torchvision_view(v, setting.interpolation, mean, std) for v in setting.views]
    transform = partial(each_view, transforms=transforms)
    return Workers(setting.table, setting.order, setting.workers, transform)


def lightly_workers(setting: Setting) -> Workers:
    """The complete MoCo v2 transform of lightly in the same DataLoader."""
    if not setting.complete:
        raise ValueError("its transforms are complete augmentations")
    from lightly.transforms import MoCoV2Transform

    transform = MoCoV2Transform(input_size=setting.views[0].size)
    return Workers(setting.table, setting.order, setting.workers, transform)


CONTENDERS: dict[str, Callable[[Setting], Contender]] = {
    "decode-only": DecodeOnly,
    "ffcv": partial(Ours, name="ffcv"),
    "dali": partial(Ours, name="dali"),
    "memory": partial(Ours, name="memory"),
    "stock-ffcv": StockFFCV,
    "torchvision": torchvision_workers,
    "lightly": lightly_workers,
    **{name: partial(Opponent, name=name) for name in NAMES},
}
