"""Read-ahead: the bytes of coming batches are requested before a decoder needs them.

What a loop asks for belongs to it (``pipelines.system.scope``), and ends with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from pipelines.sampler import Sampler
from pipelines.sources.source import Source
from pipelines.system.scope import Scope

Rows = NDArray[np.int64]


class Requests:
    """Requests the bytes of batches of rows, each once, at most ``ahead`` batches in advance.

    A thread takes the batches and makes the requests, because a busy disk delays even those.
    ``scope`` is the loop's, in which it decodes as well: ``close`` ends its waits and its requests.
    """

    def __init__(self, source: Source, batches: Iterator[Rows], ahead: int) -> None:
        self._source, self._batches, self._ahead = source, batches, ahead
        self._asked = 0
        self.scope = Scope()
        self._thread = ThreadPoolExecutor(1, "unmix-read-ahead")
        self._asking: Future[None] | None = None

    def during(self, number: int) -> None:
        """Request the bytes of up to ``ahead`` batches after this one, counted from 0.

        An error of an earlier request is raised.
        """
        if self._asking is not None and self._asking.done():
            self._asking.result()
        if self._ahead:
            self._asking = self._thread.submit(self.scope.run, self._ask, number + self._ahead + 1)

    def _ask(self, until: int) -> None:
        while self._asked < until:
            rows = next(self._batches, None)
            if rows is None:
                return
            if len(rows):
                self._source.will_need(rows)
            self._asked += 1

    def close(self) -> None:
        """End the loop's waits, drop its requests, and end the thread."""
        try:
            self.scope.close()
        finally:
            self._thread.shutdown(cancel_futures=True)


class ReadAhead(Requests):
    """Requests the bytes of steps ``start`` to ``stop - 1`` of a rank, at most ``steps`` ahead.

    A block shuffle requests whole blocks, each once an epoch. ``extra`` returns the rows that a
    step shows in addition to its own.
    """

    def __init__(
        self,
        source: Source,
        sampler: Sampler,
        start: int,
        stop: int,
        steps: int,
        extra: Callable[[int], Rows] | None = None,
    ) -> None:
        super().__init__(source, _rows_of_steps(sampler, range(start, stop), extra), steps)
        self._start = start

    def during(self, number: int) -> None:
        """Request the bytes of up to ``steps`` steps after this step; raise an earlier error."""
        super().during(number - self._start)


def _rows_of_steps(
    sampler: Sampler, steps: range, extra: Callable[[int], Rows] | None
) -> Iterator[Rows]:
    """Yield the rows to request for each step; with blocks, those of blocks not yet requested."""
    epoch, asked = -1, set[int]()
    for step in steps:
        rows, blocks = sampler.rows(step), sampler.blocks
        if blocks is not None:
            if sampler.epoch(step) != epoch:
                epoch = sampler.epoch(step)
                asked.clear()
            new = [block for block in blocks.of(rows).tolist() if block not in asked]
            asked.update(new)
            rows = np.concatenate([rows[:0], *(blocks.rows(block) for block in new)])
        more = rows[:0] if extra is None else extra(step)
        yield np.union1d(rows, more) if len(more) else rows
