"""The prefetching loader: a ``StepMaker`` runs ahead of the training loop.

A thread decodes ahead. On the host it augments the views as well. On CUDA it copies the crops on a
side stream while the last step computes, and they are augmented on the training stream. A batch
that cannot be made raises; none is dropped, so an epoch is never short.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass

from pipelines.batch import Batch
from pipelines.read_ahead import ReadAhead
from pipelines.step_maker import Decoded, StepMaker
from pipelines.system.scope import Scope
from pipelines.system.transfer import device_thread

Work = Callable[[int], Batch | Decoded]


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

    def batches(self, start: int, stop: int) -> Generator[Batch, None, None]:
        """Yield the batches of steps ``start`` to ``stop - 1``, counted from the run's start."""
        maker = self.maker
        ahead: deque[Future[Batch | Decoded]] = deque()
        work: Work = self._whole if maker.stream is None else maker.decode
        reader = ReadAhead(
            maker.table.source, maker.sampler, start, stop, self.read_ahead, maker.read_ahead
        )
        with device_thread("unmix-prefetch", maker.device) as pool, closing(reader):
            for step in range(start, stop):
                reader.during(step)
                ahead.append(pool.submit(reader.scope.run, work, step))
                if len(ahead) > self.prefetch:
                    yield self._next(reader.scope, ahead.popleft())
            while ahead:
                yield self._next(reader.scope, ahead.popleft())

    def _whole(self, step: int) -> Batch:
        """Make a batch on the host."""
        return self.maker.finish(self.maker.decode(step))

    def _next(self, scope: Scope, ahead: Future[Batch | Decoded]) -> Batch:
        began = time.perf_counter()
        made = scope.result(ahead)
        self.waited += time.perf_counter() - began
        return made if isinstance(made, Batch) else self.maker.finish(made)
