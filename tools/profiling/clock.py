"""Timing of work on the host and on the device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

LONG_ENOUGH, MOST_CALLS = 0.1, 20
"""Seconds for which a stage is repeated in one measurement, and the largest number of calls."""


Seconds = list[float]
"""One value for each repetition."""


class Clock:
    """A device's clock: CUDA events, or readings of the host's monotonic clock."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.on_gpu = device.type == "cuda"

    @property
    def timed(self) -> str:
        """What a time by this clock is of: ``launches`` on a GPU, else ``host``.

        Between CUDA events, each kernel starts when the host has launched it; where kernels are
        shorter than their launches, launches are timed. Only a CUDA graph shows the kernels alone.
        """
        return "launches" if self.on_gpu else "host"

    def mark(self) -> Any:
        """Return the current time; on a GPU, the time at which the queued work is done."""
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def between(self, begin: Any, end: Any) -> float:
        """Return the seconds between two marks, both in the past."""
        return begin.elapsed_time(end) / 1000 if self.on_gpu else end - begin

    def wait(self) -> None:
        """Wait for the device."""
        if self.on_gpu:
            torch.cuda.synchronize(self._device)

    def seconds(self, work: Callable[[], object], repeats: int, *, host: bool = False) -> Seconds:
        """Return the seconds of a call, ``repeats`` times, after a warm-up call.

        A short call is made several times in a row. With ``host``, for work that is partly the
        host's, the host's clock runs until the device has finished.
        """
        clock = Clock(torch.device("cpu")) if host else self

        def once(calls: int) -> float:
            self.wait()
            begin = clock.mark()
            for _ in range(calls):
                work()
            if host:
                self.wait()
            end = clock.mark()
            self.wait()
            return clock.between(begin, end) / calls

        once(1)  # compiles
        calls = min(max(round(LONG_ENOUGH / max(once(1), 1e-9)), 1), MOST_CALLS)
        return [once(calls) for _ in range(repeats)]
