"""``--on-nan rollback``: back to the last good checkpoint, and on without the step that broke."""

from __future__ import annotations

from collections.abc import Collection, Generator

from pipelines.batch import Batch
from pipelines.loader import Loader
from tools.run.config import Config
from tools.run.record import Record
from tools.run.state import State
from tools.run.tally import NotFinite

LIMIT, NEAR = 3, 100
"""At most 3 of 100 steps in a row are left out; with more, it is no single batch's fault."""


def batches(
    loader: Loader, start: int, stop: int, left_out: Collection[int]
) -> Generator[Batch | None, None, None]:
    """Yield the batch of each step from ``start`` to ``stop - 1``, None for a step left out."""
    gaps = sorted(step for step in left_out if start <= step < stop)
    for gap in gaps:
        yield from loader.batches(start, gap)
        yield None
        start = gap + 1
    yield from loader.batches(start, stop)


class Rollback:
    """Takes a run back to its last good checkpoint; every process does it at the same line."""

    def __init__(self, config: Config, state: State, record: Record) -> None:
        self.on = config.on_nan == "rollback"
        self._state, self._record = state, record

    def after(self, error: NotFinite) -> int:
        """Restore the last good checkpoint; return its step, from which to go on.

        The run leaves out the step that broke, and those that it left out before.

        Raises:
            NotFinite: ``--on-nan stop``, or ``LIMIT`` of the ``NEAR`` last steps are left out.
            ValueError: the checkpoint is damaged.
        """
        state = self._state
        if not self.on or state.last_good is None:
            raise error
        left_out = {*state.left_out, error.step}
        near = sorted(step for step in left_out if abs(error.step - step) < NEAR)
        if len(near) > LIMIT:
            raise NotFinite(
                f"{error}\n--on-nan rollback gave up: steps {', '.join(map(str, near))} were not "
                "finite, each without those before it",
                error.step,
            )
        step = state.restore(state.last_good)
        state.left_out |= left_out
        self._record.rewind(step)
        self._record.message(
            f"step {error.step:,} was not finite: back to step {step:,}, and on without it"
        )
        return step
