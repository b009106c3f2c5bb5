"""The prefetching loader: a ``StepMaker`` runs ahead of the training loop.

A thread decodes ahead. On the host it augments the views as well. On CUDA it copies the crops on a
side stream while the last step computes, and they are augmented on the training stream. A batch
that cannot be made raises; none is dropped, so an epoch is never short.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, wait
from dataclasses import dataclass

from pipelines.batch import Batch
from pipelines.read_ahead import ReadAhead
from pipelines.sources.fetched import abandon
from pipelines.step_maker import Decoded, StepMaker
from pipelines.system.transfer import device_thread

POLL_SECONDS = 0.1
"""Seconds between two looks at ``Loader.interrupted`` while a batch is awaited."""


class Interrupted(Exception):
    """The training loop was asked to stop while it waited for a batch."""


@dataclass
class Loader:
    """Batches of a rank for any range of steps."""

    maker: StepMaker
    prefetch: int = 3
    """Steps made ahead of the one in use."""
    read_ahead: int = 0
    """Steps whose bytes are requested while an earlier one is decoded."""
    waited: float = 0.0
    """Seconds for which the training loop has waited for batches."""
    interrupted: Callable[[], bool] | None = None
    """Asked while a batch is awaited, as from a store that does not answer: if true, ``batches``
    raises ``Interrupted``. None: it waits."""

    def batches(self, start: int, stop: int) -> Generator[Batch, None, None]:
        """Yield the batches of steps ``start`` to ``stop - 1``, counted from the run's start."""
        maker = self.maker
        ahead: deque[Future[Batch | Decoded]] = deque()
        work = self._whole if maker.stream is None else maker.decode
        reader = ReadAhead(
            maker.table.source, maker.sampler, start, stop, self.read_ahead, maker.read_ahead
        )
        with contextlib.closing(reader), device_thread("unmix-prefetch", maker.device) as pool:
            try:
                for step in range(start, stop):
                    reader.during(step)
                    ahead.append(pool.submit(work, step))
                    if len(ahead) > self.prefetch:
                        yield self._next(ahead)
                while ahead:
                    yield self._next(ahead)
            finally:
                reader.close()  # first, so that it asks for nothing more
                abandon(maker.table.source, ahead)

    def _whole(self, step: int) -> Batch:
        """Make a batch on the host."""
        return self.maker.finish(self.maker.decode(step))

    def _next(self, ahead: deque[Future[Batch | Decoded]]) -> Batch:
        began = time.perf_counter()
        while self.interrupted is not None and not wait([ahead[0]], POLL_SECONDS).done:
            if self.interrupted():
                raise Interrupted
        made = ahead[0].result()  # an interrupted wait leaves it to be abandoned
        ahead.popleft()
        self.waited += time.perf_counter() - began
        return made if isinstance(made, Batch) else self.maker.finish(made)
