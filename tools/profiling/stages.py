"""Where the time of a step goes on the way to the network: each of the loader's stages by itself.

A stage is measured ``repeats`` times; its first call, which compiles and fills caches, is left out.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipelines.augment import triton as finish_triton
from pipelines.augment.params import ViewParams, draw_params
from pipelines.batch import Batch
from pipelines.decoders import Crops, Decoder
from pipelines.decoders.memory import MemoryDecoder
from pipelines.loader import Loader
from pipelines.rng import RowRng
from pipelines.views import View
from tools.profiling.clock import Clock, Seconds
from tools.profiling.io import Reads, measure_reads

JITTER = ("brightness", "contrast", "saturation", "hue")
OPERATIONS = (*JITTER, "gray", "blur", "solarize")


class Tap:
    """A decoder that keeps what it was asked for and what it answered."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.rows: NDArray[np.int64] = np.zeros(0, np.int64)
        self.windows: Sequence[Crops] = ()
        self.crops: list[Tensor] = []
        self.decodes = self.replaced = 0

    def __call__(self, rows: NDArray[np.int64], crops: Sequence[Crops]) -> list[Tensor]:
        """Decode."""
        self.rows, self.windows = rows, crops
        self.crops = self.decoder(rows, crops)
        return self.crops

    def close(self) -> None:
        """Leave the decoder open: it is another's."""


class Canned(Tap):
    """A decoder that gives the last answer of a ``Tap`` again, at no cost."""

    def __init__(self, tap: Tap) -> None:
        super().__init__(tap.decoder)
        self.crops = tap.crops

    def __call__(self, rows: NDArray[np.int64], crops: Sequence[Crops]) -> list[Tensor]:
        """Give the crops."""
        return self.crops


def only(view: View, operation: str | None) -> View:
    """Return the view with flips and, at its own strength, one or none of the OPERATIONS."""
    off = dataclasses.replace(view, jitter_prob=0.0, gray=0.0, blur=0.0, solarize=0.0)
    if operation in JITTER:
        strength = [0.0] * 4
        strength[JITTER.index(operation)] = view.jitter[JITTER.index(operation)]
        jitter = (strength[0], strength[1], strength[2], strength[3])
        return dataclasses.replace(off, jitter=jitter, jitter_prob=view.jitter_prob)
    changed: dict[str, Any] = {operation: getattr(view, operation)} if operation else {}
    return dataclasses.replace(off, **changed)


def has(view: View, operation: str) -> bool:
    """Whether the view ever does this."""
    if operation in JITTER:
        return view.jitter_prob * view.jitter[JITTER.index(operation)] > 0
    return getattr(view, operation) > 0


class Stages:
    """The stages of a loader, on the rows of its first batch."""

    def __init__(self, loader: Loader, repeats: int) -> None:
        self.loader, self.repeats = loader, repeats
        self.clock = Clock(loader.device)
        self.tap = Tap(loader.decoder)
        tapped = dataclasses.replace(loader, decoder=self.tap)
        ready = tapped._prepare(0)
        self.batch = ready if isinstance(ready, Batch) else tapped._finish(ready)
        self.decoded_on_gpu = self.tap.crops[0].is_cuda
        self.reads: Reads | None = None

    def measure(self) -> dict[str, Seconds]:
        """Return the seconds that this process's share of a batch takes in each of the loader's.

        ``decode_crop`` includes ``decode``, and that ``read``. What a loader does not do is left
        out: ``memory`` neither reads nor decodes, and on the host nothing is copied to a device.
        ``read`` and ``read_cold`` are of one thread; the latter is left out where the system keeps
        pages that it was asked to drop.
        """
        decoder, rows, windows = self.loader.decoder, self.tap.rows, self.tap.windows
        found = {"draw": self._host(self._draw)}
        if not isinstance(decoder, MemoryDecoder):
            order = self.loader.order
            self.reads = measure_reads(
                self.loader.table, [order.rows(step) for step in range(self.repeats)]
            )
            found |= {"read_cold": self.reads.cold} if self.reads.was_cold else {}
            found["read"] = self.reads.warm
            found["decode"] = self._host(lambda: decoder(rows, ()))
        found["decode_crop"] = self._host(lambda: decoder(rows, windows))
        if self.clock.on_gpu and not self.decoded_on_gpu:
            found["host_to_device"] = self._device(self._copy)
        return found | self._finisher(np.median(found["draw"]).item()) | self._mixture()

    def _host(self, work: Callable[[], object]) -> Seconds:
        return self.clock.seconds(work, self.repeats, host=True)

    def _device(self, work: Callable[[], object]) -> Seconds:
        return self.clock.seconds(work, self.repeats)

    def _draw(self) -> list[ViewParams]:
        table, rows, order = self.loader.table, self.tap.rows, self.loader.order
        draws = RowRng(order.seed, order.epoch(0))
        sides = table.height[rows], table.width[rows]
        return [
            draw_params(v, i, draws, rows, *sides) for i, v in enumerate(self.loader.views_of(0))
        ]

    def finisher_bytes(self) -> tuple[int, int] | None:
        """Return bytes to and from the GPU's memory: those its finisher moves, and the least.

        None on the host: what its caches move is not to be counted from here.
        """
        if not (self.clock.on_gpu and finish_triton.usable()):
            return None
        views, dtype = self.loader.views_of(0), self.batch.views[0].dtype
        pairs = zip(views, self._draw(), strict=True)
        moved, least = zip(*(finish_triton.traffic(*pair, dtype) for pair in pairs), strict=True)
        return sum(moved), sum(least)

    def _copy(self) -> None:
        for crops in self.tap.crops:
            crops.to(self.loader.device, non_blocking=True)

    def _finisher(self, drawing: float) -> dict[str, Seconds]:
        """The finisher by the loader's own method: all of it, then operation by operation.

        An operation's time is what it adds to conversion, flip and normalisation, in each
        repetition; on the host ``drawing`` seconds of each measurement are not the finisher's.
        """
        views = self.loader.views
        not_ours = 0.0 if self.clock.on_gpu else drawing
        total = [max(s - not_ours, 0.0) for s in self._finishing(views)]
        convert = [max(s - not_ours, 0.0) for s in self._finishing([only(v, None) for v in views])]
        found = {"finish": total, "finish.convert_flip_normalise": convert}
        for name in OPERATIONS:
            if any(has(view, name) for view in views):
                alone = self._finishing([only(view, name) for view in views])
                pairs = zip(alone, convert, strict=True)
                found[f"finish.{name}"] = [max(a - not_ours - b, 0.0) for a, b in pairs]
        return found

    def _finishing(self, views: Sequence[View]) -> Seconds:
        loader = dataclasses.replace(
            self.loader, views=views, decoder=Canned(self.tap), mixture=None
        )
        ready = loader._prepare(0)
        if isinstance(ready, Batch):  # finished where it was decoded: on the host
            return self._device(lambda: loader._prepare(0))
        return self._device(lambda: loader._finish(ready))

    def _mixture(self) -> dict[str, Seconds]:
        if self.loader.mixture is None:
            return {}
        steps = itertools.count()
        mix = self.loader._mix
        return {"mixture": self._device(lambda: mix(self.batch.views, next(steps)))}
