"""Work that one process does first, or for all."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar, cast

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch.distributed import PrefixStore, Store
from torch.distributed.distributed_c10d import _get_default_store

T = TypeVar("T")
POLL_SECONDS = 0.2


def main_process_first(accelerator: Accelerator, make: Callable[[], T]) -> T:
    """Call ``make`` in the first process; return its result, or raise its error, in all.

    Raises:
        ValueError, OSError: ``make`` raised it.
    """
    answer: list[object] = [None, None]
    if accelerator.is_main_process:
        try:
            answer[0] = make()
        except (ValueError, OSError) as error:
            answer[1] = error
    broadcast_object_list(answer)
    if isinstance(answer[1], Exception):
        raise answer[1]
    return cast(T, answer[0])


def shared_store(name: str) -> Store:
    """Return the process group's key-value store, with a prefix and a separate connection."""
    return PrefixStore(f"unmix/{name}", _get_default_store().clone())


def local_main_first(accelerator: Accelerator, make: Callable[[], T]) -> T:
    """Call ``make`` in the first process of each machine, then in its others; return the result.

    All processes return together. They wait on the store without a limit, because the process
    group's timeout is for steps and not for converting a data set.

    Raises:
        ValueError: ``make`` failed in another process, whose message has the reason.
    """
    if accelerator.num_processes == 1:
        return make()
    store, world = shared_store("first"), accelerator.num_processes
    turn = (store.add("arrived", 1) - 1) // world  # none arrives again before all have left
    rank = accelerator.process_index
    first = rank - accelerator.local_process_index
    if rank != first:
        _wait(store, turn, [first])
    done = "failed"
    try:
        made = make()
        done = "done"
    finally:
        store.set(f"{turn}/{rank}", done)
    _wait(store, turn, range(world))
    return made


def _wait(store: Store, turn: int, ranks: range | list[int]) -> None:
    for rank in ranks:
        while not store.check([f"{turn}/{rank}"]):
            time.sleep(POLL_SECONDS)
        if store.get(f"{turn}/{rank}") != b"done":
            raise ValueError(f"process {rank} could not open the data; see its message")
