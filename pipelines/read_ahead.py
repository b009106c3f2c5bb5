"""Read-ahead: the bytes of coming steps are requested before a decoder needs them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from pipelines.sampler import Sampler
from pipelines.sources.source import Source


class ReadAhead:
    """Requests the bytes of steps ``start`` to ``stop - 1`` of a rank, at most ``steps`` ahead.

    Each step's bytes are requested once. A thread makes the requests, because a busy disk delays
    even those. A block shuffle requests whole blocks, each once an epoch. ``extra`` returns the
    rows that a step shows in addition to its own.
    """

    def __init__(
        self,
        source: Source,
        sampler: Sampler,
        start: int,
        stop: int,
        steps: int,
        extra: Callable[[int], NDArray[np.int64]] | None = None,
    ) -> None:
        self._source, self._sampler, self._extra = source, sampler, extra
        self._next, self._stop, self._steps = start, stop, steps
        self._thread = ThreadPoolExecutor(1, "unmix-read-ahead")
        self._asking: Future[None] | None = None
        self._epoch = -1
        self._asked: set[int] = set()  # blocks, this epoch

    def during(self, step: int) -> None:
        """Request the bytes of up to ``steps`` steps after ``step``; raise an earlier error."""
        if self._asking is not None and self._asking.done():
            self._asking.result()
        if self._steps:
            until = min(step + self._steps + 1, self._stop)
            self._asking = self._thread.submit(self._ask, until)

    def _ask(self, until: int) -> None:
        while self._next < until:
            rows = self._rows(self._next)
            extra = rows[:0] if self._extra is None else self._extra(self._next)
            if len(extra):
                rows = np.union1d(rows, extra)
            if len(rows):
                self._source.will_need(rows)
            self._next += 1

    def _rows(self, step: int) -> NDArray[np.int64]:
        """Return the rows to request for a step: its own, or those of blocks not yet requested."""
        rows, blocks = self._sampler.rows(step), self._sampler.blocks
        if blocks is None:
            return rows
        if self._sampler.epoch(step) != self._epoch:
            self._epoch = self._sampler.epoch(step)
            self._asked.clear()
        new = [block for block in blocks.of(rows).tolist() if block not in self._asked]
        self._asked.update(new)
        return np.concatenate([rows[:0], *(blocks.rows(block) for block in new)])

    def close(self) -> None:
        """End the thread and drop the remaining requests."""
        self._thread.shutdown(cancel_futures=True)
