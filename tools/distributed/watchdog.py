"""Watchdog: report where the processes of a run are when no step finishes."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from torch.distributed import Store

ROOT = Path(__file__).resolve().parents[2]
OURS = {"pipelines", "models", "tools", "train.py", "eval.py"}
PATIENCE = 60.0
"""Seconds without a step after which the places of all processes are reported."""
NOTES_A_MINUTE = 12


@dataclass
class _Seen:
    """The last note of a process, and when it changed."""

    note: str = ""
    answered: float = 0.0
    finished: int = -1
    moved: float = 0.0
    place: str = "has not begun"


class Watchdog:
    """Watches the processes of a run, from the thread of each that waits for signals.

    Every ``patience / 12`` seconds (five by default) each process writes a note to the store: its
    number of finished steps and the line of its main thread. The first process reads the notes of
    all, the second those of the first. If no step finishes for ``patience`` seconds, and not all
    processes are in the same function (as in a long evaluation), it prints once the place of each
    and the processes that do not answer. A process that was stopped, or whose machine is gone,
    writes no more notes.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        ranks: Iterable[int],
        patience: float = PATIENCE,
        print_fn: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._rank = store, rank
        self._watched = list(ranks) if rank == 0 else [0] if rank == 1 else []
        self._patience, self._print, self._clock = patience, print_fn, clock
        self._main = threading.main_thread().ident
        self._period = patience / NOTES_A_MINUTE
        self._beats, self._next = 0, clock()
        self._seen = {r: _Seen(answered=clock(), moved=clock()) for r in self._watched}
        self._reported: int | None = None

    def beat(self, finished: int) -> None:
        """Write this process's note after ``finished`` steps, and check the others' notes."""
        if self._clock() < self._next:
            return
        self._next = self._clock() + self._period
        self._beats += 1
        note = json.dumps([self._beats, finished, place_of(self._main)])
        self._store.set(f"at/{self._rank}", note)
        for rank in self._watched:
            self._read(rank)
        if self._watched:
            self._judge()

    def _read(self, rank: int) -> None:
        seen, key = self._seen[rank], f"at/{rank}"
        note = self._store.get(key).decode() if self._store.check([key]) else ""
        if note == seen.note:
            return
        _, finished, place = json.loads(note)
        moved = seen.moved if finished == seen.finished else self._clock()
        self._seen[rank] = _Seen(note, self._clock(), finished, moved, place)

    def _judge(self) -> None:
        now, everyone = self._clock(), self._seen.values()
        silent = [s for s in everyone if now - s.answered > self._patience / 2]
        places = {s.place.partition(" line")[0] for s in everyone}
        finished = min(s.finished for s in everyone)
        still = now - max(s.moved for s in everyone)
        if still < self._patience or finished == self._reported:
            return
        if not silent and (len(places) == 1 or self._rank):
            return
        self._reported = finished
        lines = [f"  process {rank}: {self._state(seen)}" for rank, seen in self._noteworthy()]
        text = f"no step was finished for {still:.0f} s, after step {finished:,}; the processes are"
        self._print("\n".join([text, *lines]))

    def _noteworthy(self) -> list[tuple[int, _Seen]]:
        """Return all processes if they are few; else those at another place than most."""
        everyone = list(self._seen.items())
        if len(everyone) <= 8:
            return everyone
        places = [seen.place for _, seen in everyone]
        usual = max(places, key=places.count)
        quiet = self._clock() - self._patience / 2
        return [(r, s) for r, s in everyone if s.place != usual or s.answered < quiet]

    def _state(self, seen: _Seen) -> str:
        quiet = self._clock() - seen.answered
        if quiet > self._patience / 2:
            return f"does not answer since {quiet:.0f} s; was at {seen.place}"
        return seen.place


def place_of(thread: int | None) -> str:
    """Return a thread's innermost line in this project: ``FILE FUNCTION line N``."""
    frame = sys._current_frames().get(thread or 0)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in OURS:
            return f"{path.relative_to(ROOT)} {frame.f_code.co_name} line {frame.f_lineno}"
        frame = frame.f_back
    return "somewhere"
