"""What ends a process that waits in vain for another one, where PyTorch would abort it.

gloo raises an error after the process group's timeout, and the run ends with status 2. NCCL's
own thread ends the process instead, by an abort that no ``except`` sees. So under NCCL our thread
ends it first.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable

import torch.distributed as dist
from torch.distributed import Store

from tools.distributed.watchdog import place_of

SHARE = 0.8
"""Share of the timeout after which a process ends; NCCL counts from a little earlier than we."""
STATUS = 2


def leave(what: str) -> None:
    """Say what was lost and how to go on, and end this process at once with status 2.

    Its main thread may be inside a collective that never returns, so nothing else is run.
    """
    print(f"train.py: lost contact: {what}\nGo on with --resume auto", file=sys.stderr, flush=True)
    os._exit(STATUS)


def timeout_that_aborts(seconds: float) -> float | None:
    """Return the group's timeout if its end is NCCL's abort; None if it is an error (gloo)."""
    nccl = dist.is_available() and dist.is_initialized() and "nccl" in dist.get_backend()
    return seconds if nccl else None


class LostContact:
    """Ends this process if its main thread has waited at one line for most of the timeout.

    That alone may be a long computation, so another process must be elsewhere, or silent: at that
    point the notes of all processes (``Watchdog`` writes them) are read twice, two periods apart.
    ``beat`` is called by the thread that waits for signals, at least once a ``period``.
    """

    def __init__(
        self,
        store: Store,
        ranks: Iterable[int],
        timeout: float,
        period: float,
        leave: Callable[[str], None] = leave,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._ranks, self._leave, self._clock = store, list(ranks), leave, clock
        self._limit, self._period = SHARE * timeout, period
        self._main = threading.main_thread().ident
        self._at: tuple[int, str] = (-1, "")
        self._since = clock()
        self._notes: tuple[float, list[str]] | None = None

    def beat(self, finished: int) -> None:
        """Note where the main thread is after ``finished`` steps; end the process if it is lost."""
        at = finished, place_of(self._main)
        now = self._clock()
        if at != self._at:
            self._at, self._since, self._notes = at, now, None
        elif now - self._since < self._limit - 2 * self._period:
            return
        elif self._notes is None:
            self._notes = now, self._read()
        elif now - self._since >= self._limit and now - self._notes[0] >= 2 * self._period:
            self._judge(self._notes[1], self._read())
            self._notes = None

    def _read(self) -> list[str]:
        keys = [f"at/{rank}" for rank in self._ranks]
        return [self._store.get(key).decode() if self._store.check([key]) else "" for key in keys]

    def _judge(self, before: list[str], after: list[str]) -> None:
        silent = [r for r, a, b in zip(self._ranks, before, after, strict=True) if a == b]
        places = [json.loads(note)[2] if note else "" for note in after]
        elsewhere = [
            f"process {rank} is at {place}"
            for rank, place in zip(self._ranks, places, strict=True)
            if place and place != self._at[1] and rank not in silent
        ]
        quiet = [f"process {rank} does not answer" for rank in silent]
        if found := [*quiet, *elsewhere][:4]:
            waited = self._clock() - self._since
            here = f"waited {waited:.0f} s at {self._at[1]}, after step {self._at[0]:,}"
            self._leave(f"{here}; {', '.join(found)}")
