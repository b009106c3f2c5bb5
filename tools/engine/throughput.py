"""Throughput: images per second, and the share of time spent waiting for data."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class ThroughputMeter:
    """Throughput between two readings, over all processes.

    ``batch_size`` is the number of images of a step over all processes. ``waited`` returns this
    process's total seconds of waiting for data (``lambda: loader.waited``). The first ``warmup``
    steps, which compile and fill caches, and all work inside ``paused()`` are left out. Only
    differences of clock readings are used.

    The host waits for the device when the warm-up ends and when a pause begins and ends, so that
    queued work is counted in the right interval. Call ``read`` at log lines, where the host has
    just waited.
    """

    def __init__(
        self,
        batch_size: int,
        waited: Callable[[], float],
        device: torch.device,
        *,
        warmup: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._batch_size = batch_size
        self._waited = waited
        self._device = device
        self._warmup = warmup
        self._clock = clock
        self._restart()

    def _restart(self) -> None:
        self._steps = 0
        self._began, self._waited_before = self._clock(), self._waited()
        self._left_out = self._waited_left_out = 0.0

    def step(self) -> None:
        """Count a finished step; the end of the warm-up starts the first interval."""
        if self._warmup:
            self._warmup -= 1
            if not self._warmup:
                self._synchronize()
                self._restart()
        else:
            self._steps += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time of the block: evaluations, checkpoints, pictures."""
        self._synchronize()
        began, waited = self._clock(), self._waited()
        try:
            yield
        finally:
            self._synchronize()
            self._left_out += self._clock() - began
            self._waited_left_out += self._waited() - waited

    def read(self) -> dict[str, float]:
        """Return ``images_per_second`` and ``data_wait`` (share in [0, 1]) since the last reading.

        Both are NaN when no step was measured. Starts the next interval.
        """
        elapsed = self._clock() - self._began - self._left_out
        waited = self._waited() - self._waited_before - self._waited_left_out
        steps = self._steps
        self._restart()
        if not steps or elapsed <= 0:
            return {"images_per_second": math.nan, "data_wait": math.nan}
        return {
            "images_per_second": steps * self._batch_size / elapsed,
            "data_wait": min(waited / elapsed, 1.0),
        }

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
