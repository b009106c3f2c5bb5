"""The time of each of the loader's stages, measured separately.

A stage is measured ``repeats`` times; its first call, which compiles and fills caches, is left out.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipelines.augment import triton as fused
from pipelines.decoders import Crops, Decoder
from pipelines.decoders.memory import MemoryDecoder
from pipelines.loader import Loader
from pipelines.views import View
from tools.profiling.clock import Clock, Seconds
from tools.profiling.io import Fetches, Reads, measure_fetches, measure_reads

JITTER = ("brightness", "contrast", "saturation", "hue")
OPERATIONS = (*JITTER, "gray", "blur", "solarize", "rand_augment")
NO_RAND = (0.0, 10.0, 0.5)


class Tap:
    """A decoder that keeps the arguments and the result of its last call."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.rows: NDArray[np.int64] = np.zeros(0, np.int64)
        self.windows: Sequence[Crops] = ()
        self.crops: list[Tensor] = []
        self.decodes = self.replaced = 0
        self.bad_rows: set[int] = set()

    def __call__(self, rows: NDArray[np.int64], crops: Sequence[Crops]) -> list[Tensor]:
        """Decode."""
        self.rows, self.windows = rows, crops
        self.crops = self.decoder(rows, crops)
        return self.crops

    def close(self) -> None:
        """Leave the wrapped decoder open."""


class Canned(Tap):
    """A decoder that returns the last result of a ``Tap`` again, at no cost."""

    def __init__(self, tap: Tap) -> None:
        super().__init__(tap.decoder)
        self.crops = tap.crops

    def __call__(self, rows: NDArray[np.int64], crops: Sequence[Crops]) -> list[Tensor]:
        """Return the crops."""
        return self.crops


def only(view: View, operation: str | None) -> View:
    """Return the view with flips and at most one of the OPERATIONS, at the view's strength."""
    off = dataclasses.replace(
        view, jitter_prob=0.0, gray=0.0, blur=0.0, solarize=0.0, rand_augment=NO_RAND
    )
    if operation in JITTER:
        strength = [0.0] * 4
        strength[JITTER.index(operation)] = view.jitter[JITTER.index(operation)]
        jitter = (strength[0], strength[1], strength[2], strength[3])
        return dataclasses.replace(off, jitter=jitter, jitter_prob=view.jitter_prob)
    changed: dict[str, Any] = {operation: getattr(view, operation)} if operation else {}
    return dataclasses.replace(off, **changed)


def has(view: View, operation: str) -> bool:
    """Whether the view ever applies the operation."""
    if operation in JITTER:
        return view.jitter_prob * view.jitter[JITTER.index(operation)] > 0
    if operation == "rand_augment":
        return view.rand_augment[0] > 0
    return getattr(view, operation) > 0


class Stages:
    """The stages of a loader, on the rows of its first batch."""

    def __init__(self, loader: Loader, repeats: int) -> None:
        self.maker, self.repeats = loader.maker, repeats
        self.clock = Clock(self.maker.device)
        self.tap = Tap(self.maker.decoder)
        tapped = dataclasses.replace(self.maker, decoder=self.tap)
        self.batch = tapped.finish(tapped.decode(0))
        self.decoded_on_gpu = self.tap.crops[0].is_cuda
        self.reads: Reads | None = None
        self.fetches: Fetches | None = None
        self.on_host: set[str] = set()

    def measure(self) -> dict[str, Seconds]:
        """Return the seconds of each stage for this process's share of a batch.

        ``fetch``, of remote data, uses all connections at a time. ``decode_crop`` includes
        ``decode``, which includes ``read``. Stages that a loader does not
        have are left out: ``memory`` neither reads nor decodes, and on the host nothing is copied
        to a device. ``read`` and ``read_cold`` use one thread; the latter is left out if the system
        keeps pages that it was asked to drop.
        """
        maker, rows, windows = self.maker, self.tap.rows, self.tap.windows
        found: dict[str, Seconds] = {"draw": self._host(lambda: maker.draw(0))}
        if not isinstance(maker.decoder, MemoryDecoder):
            self.fetches = measure_fetches(maker.table, self._batches_to_fetch())
            found |= {"fetch": self.fetches.seconds} if self.fetches else {}
            steps = range(self.repeats)
            self.reads = measure_reads(maker.table, [maker.sampler.rows(step) for step in steps])
            found |= {"read_cold": self.reads.cold} if self.reads.was_cold else {}
            found["read"] = self.reads.warm
            with maker.table.source.held(rows):
                found["decode"] = self._host(lambda: maker.decoder(rows, ()))
        with maker.table.source.held(rows):
            found["decode_crop"] = self._host(lambda: maker.decoder(rows, windows))
        self.on_host = set(found)
        if self.clock.on_gpu and not self.decoded_on_gpu:
            found["host_to_device"] = self._device(self._copy)
        return found | self._augment() | self._mixture()

    def _batches_to_fetch(self) -> Iterator[NDArray[np.int64]]:
        """Yield rows that a cold cache would have to fetch for a step, ``repeats`` times.

        They are those of steps from the end of the epoch, or, if whole blocks are fetched,
        adjacent ones.
        """
        sampler = self.maker.sampler
        last = sampler.steps_per_epoch - 1
        for step in range(last, max(last - self.repeats, 0), -1):
            rows = sampler.rows(step)
            if sampler.blocks is not None:
                begin = len(sampler.blocks.sequence) - (last - step + 1) * len(rows)
                rows = sampler.blocks.sequence[begin : begin + len(rows)]
            yield rows

    def timed(self, stage: str) -> str:
        """Return what a stage's time is of: ``host``, or ``launches`` on a GPU (see ``Clock``)."""
        return "host" if stage in self.on_host else self.clock.timed

    def _host(self, work: Callable[[], object]) -> Seconds:
        return self.clock.seconds(work, self.repeats, host=True)

    def _device(self, work: Callable[[], object]) -> Seconds:
        return self.clock.seconds(work, self.repeats)

    def augment_bytes(self) -> tuple[int, int] | None:
        """Return the bytes that augmentation moves to and from GPU memory, and the least possible.

        None on the host, where the traffic of the caches cannot be counted.
        """
        if not (self.clock.on_gpu and fused.usable()):
            return None
        draws, dtype = self.maker.draw(0), self.batch.views[0].dtype
        moved, least = zip(*(fused.traffic(*pair, dtype) for pair in draws.windows()), strict=True)
        return sum(moved), sum(least)

    def _copy(self) -> None:
        for crops in self.tap.crops:
            crops.to(self.maker.device, non_blocking=True)

    def _augment(self) -> dict[str, Seconds]:
        """Measure augmentation as a whole, then operation by operation.

        An operation's time is the time it adds to conversion, flip and normalization, in each
        repetition.
        """
        views = self.maker.views.views
        convert = self._augmenting([only(v, None) for v in views])
        found = {"finish": self._augmenting(views), "finish.convert_flip_normalise": convert}
        for name in OPERATIONS:
            if any(has(view, name) for view in views):
                alone = self._augmenting([only(view, name) for view in views])
                pairs = zip(alone, convert, strict=True)
                found[f"finish.{name}"] = [max(a - b, 0.0) for a, b in pairs]
        return found

    def _augmenting(self, views: Sequence[View]) -> Seconds:
        plan = dataclasses.replace(self.maker.views, views=tuple(views))
        maker = dataclasses.replace(self.maker, views=plan, decoder=Canned(self.tap))
        decoded = maker.decode(0)
        return self._device(lambda: maker.augment(decoded))

    def _mixture(self) -> dict[str, Seconds]:
        if not self.batch.mixed:
            return {}
        steps = itertools.count()
        return {"mixture": self._device(lambda: self.maker.mix(self.batch.views, next(steps)))}
