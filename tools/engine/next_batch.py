"""Batches of a run, and what happens where the next one does not come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from pipelines.batch import Batch
from pipelines.remote.errors import RemoteError
from pipelines.system.scope import Interrupted


def until_none_comes(
    batches: Iterable[Batch | None],
    step: int,
    stop: Callable[[int], None],
    save: Callable[[int], None] | None,
) -> Iterator[Batch | None]:
    """Yield the batches from ``step`` on.

    Args:
        batches: one for each step.
        step: number of finished steps.
        stop: called instead of the next batch if a signal came while it was awaited.
        save: called before an error of a remote file is raised, so that a failing store costs no
            finished steps; None where a process cannot save alone.

    Raises:
        RemoteError: the next batch cannot be fetched.
    """
    try:
        for batch in batches:
            yield batch
            step += 1
    except Interrupted:
        stop(step)
    except RemoteError as error:
        if save is not None:
            save(step)
        since = "after the last finished step" if save is not None else "from the last checkpoint"
        raise RemoteError(f"{error}. Then --resume auto continues {since}") from error
