"""``--on-nan rollback``: continue from the last good checkpoint without the failed step."""

from __future__ import annotations

from collections.abc import Collection, Generator
from pathlib import Path

from accelerate import Accelerator

from pipelines.batch import Batch
from pipelines.loader import Loader
from tools.config.config import Config
from tools.distributed.coordination import main_process_first
from tools.engine.logger import RunLogger
from tools.engine.metrics import NotFinite
from tools.engine.train_state import TrainState
from tools.runs import checkpoint

LIMIT, NEAR = 3, 100
"""At most 3 of 100 consecutive steps are left out; with more, single batches are not the cause."""


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


def crowd(steps: Collection[int]) -> list[int]:
    """Return the first ``LIMIT + 1`` steps within ``NEAR`` consecutive ones, or an empty list."""
    found = sorted(steps)
    for first in range(len(found) - LIMIT):
        if found[first + LIMIT] - found[first] < NEAR:
            return found[first : first + LIMIT + 1]
    return []


def whole(good: Path) -> Path:
    """Return the checkpoint, or the newest undamaged one before it; damage is logged."""
    before = checkpoint.available(good.parent)
    older = [path for path in before if checkpoint.step_of(path) < checkpoint.step_of(good)]
    return checkpoint.first_whole([good, *older])


class Rollback:
    """Takes a run back to its last good checkpoint, in all processes at the same step."""

    def __init__(
        self, config: Config, state: TrainState, logger: RunLogger, accelerator: Accelerator
    ) -> None:
        self.on = config.on_nan == "rollback"
        self._state, self._logger, self._accelerator = state, logger, accelerator

    def after(self, error: NotFinite) -> int:
        """Restore the last good checkpoint; return its step, from which the run continues.

        The run leaves out the failed step and those that it left out before. If the checkpoint
        has been damaged meanwhile, the one before is restored.

        Raises:
            NotFinite: ``--on-nan stop``, or more than ``LIMIT`` of ``NEAR`` steps are left out.
            ValueError: all checkpoints are damaged.
        """
        state = self._state
        if not self.on or state.last_good is None:
            raise error
        left_out = {*state.left_out, error.step}
        if near := crowd(left_out):
            raise NotFinite(
                f"{error}\n--on-nan rollback gave up: steps {', '.join(map(str, near))} were not "
                "finite, each without those before it",
                error.step,
            )
        good = state.last_good
        step = state.restore(main_process_first(self._accelerator, lambda: whole(good)))
        state.left_out |= left_out
        self._logger.rewind(step)
        self._logger.message(
            f"step {error.step:,} was not finite: back to step {step:,}, and on without it"
        )
        return step
