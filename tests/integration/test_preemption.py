"""A second signal, and the watchdog of processes that block the others, without a process group."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch.distributed import HashStore, PrefixStore

from tools.distributed.coordination import local_main_first
from tools.distributed.preemption import ECHO_SECONDS, StopSignal
from tools.distributed.watchdog import Watchdog, place_of

PROGRAM = """
import time
from types import SimpleNamespace
from tools.distributed.preemption import StopSignal
with StopSignal(SimpleNamespace(num_processes=1, process_index=0), 0, "run") as stop:
    print("ready", flush=True)
    while not stop.after(1):
        time.sleep(0.05)
    print(stop.received, flush=True)
    time.sleep(60)  # a step that takes long
"""


@pytest.mark.parametrize("number", [signal.SIGINT])
def test_an_echo_is_ignored_and_a_second_signal_ends_at_once(number: signal.Signals) -> None:
    command, pipe = [sys.executable, "-c", PROGRAM], subprocess.PIPE
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=root) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == f"{number.name}\n"
        process.send_signal(signal.SIGTERM)  # what a launcher passes on
        time.sleep(ECHO_SECONDS + 0.2)
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(5) == -number
        assert process.stderr and process.stderr.read() == ""


HUNG_UP = """
import os, sys, time
from types import SimpleNamespace
from tools.distributed.preemption import StopSignal
with StopSignal(SimpleNamespace(num_processes=1, process_index=0), 0, "run") as stop:
    print("ready", flush=True)
    while not stop.after(1):
        time.sleep(0.05)
    print("a line that nobody can read", flush=True)
    print("nor this one", file=sys.stderr, flush=True)
    open(sys.argv[1], "w").write(stop.received)
"""


def test_a_closed_terminal_stops_a_run_whose_output_then_goes_nowhere(tmp_path: Path) -> None:
    """A real terminal, whose end sends SIGHUP and breaks every further write to it."""
    root, note = Path(__file__).parents[2], tmp_path / "note"
    child, terminal = pty.fork()
    if not child:  # the leader of the terminal's session
        os.chdir(root)
        os.execv(sys.executable, [sys.executable, "-c", HUNG_UP, str(note)])
    with os.fdopen(terminal, "rb", buffering=0) as end:
        assert end.read(5) == b"ready"
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0 and note.read_text() == "SIGHUP"


def test_nohup_keeps_a_run_going() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        one = SimpleNamespace(num_processes=1, process_index=0)
        with StopSignal(one, 0, "run") as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.after(1)
            signal.raise_signal(signal.SIGTERM)
            assert stop.after(1) and stop.received == "SIGTERM"
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def vigils(count: int) -> tuple[Clock, list[Watchdog], list[list[str]]]:
    """Watches of several processes over one board, their clock, and what each says."""
    clock, board = Clock(), HashStore()
    said: list[list[str]] = [[] for _ in range(count)]
    made = [Watchdog(board, r, range(count), 60, said[r].append, clock) for r in range(count)]
    return clock, made, said


def go(clock: Clock, made: list[Watchdog], finished: list[int | None], seconds: int) -> None:
    """Let so much time pass; None is a process that does not answer."""
    for _ in range(seconds // 5):
        clock.now += 5
        for vigil, step in zip(made, finished, strict=True):
            if step is not None:
                vigil.beat(step)


def test_who_does_not_answer_is_named_once() -> None:
    clock, made, said = vigils(3)
    for step in range(20):
        go(clock, made, [step] * 3, 30)
    assert said == [[], [], []]
    go(clock, made, [20, None, 20], 300)
    (text,) = said[0]
    assert text.startswith("no step was finished for 6") and "after step 19" in text
    assert "process 1: does not answer since" in text
    assert "process 2: tests" not in text and "process 2: " in text
    go(clock, made, [21] * 3, 300)  # it was only slow
    assert len(said[0]) == 1 and not said[1] and not said[2]


def test_the_second_watches_the_first() -> None:
    clock, made, said = vigils(2)
    go(clock, made, [1, 1], 60)
    go(clock, made, [None, 1], 300)
    (text,) = said[1]
    assert "process 0: does not answer since" in text


def test_a_process_that_never_began() -> None:
    clock, made, said = vigils(2)
    go(clock, made, [0, None], 120)
    assert "process 1: does not answer since" in said[0][0] and "has not begun" in said[0][0]


def test_places_are_lines_of_ours() -> None:
    over, found = threading.Event(), []
    thread = threading.Thread(target=over.wait)
    thread.start()
    assert place_of(thread.ident) == "somewhere"
    over.set()
    thread.join()
    board = HashStore()
    board.set_timeout(timedelta(seconds=30))
    vigil = Watchdog(board, 0, [0], 60, found.append, Clock())
    vigil._main = threading.get_ident()
    vigil.beat(3)
    assert "tools/distributed/watchdog.py place_of line" in board.get("at/0").decode()


@pytest.mark.parametrize("fails", [None, 0, 2])
def test_a_machine_s_first_goes_first_and_all_leave_together(
    monkeypatch: pytest.MonkeyPatch, fails: int | None
) -> None:
    """Two machines of two processes, as threads."""
    board = PrefixStore("x", HashStore())
    monkeypatch.setattr("tools.distributed.coordination.shared_store", lambda name: board)
    order: list[int] = []
    left: dict[int, object] = {}

    def process(rank: int) -> None:
        def make() -> int:
            assert rank % 2 == 0 or rank - 1 in order
            time.sleep(0.3 if rank % 2 == 0 else 0)
            order.append(rank)
            if rank == fails:
                raise ValueError("no data")
            return rank

        names = ("num_processes", "process_index", "local_process_index")
        accelerator = SimpleNamespace(**dict(zip(names, (4, rank, rank % 2), strict=True)))
        try:
            left[rank] = local_main_first(accelerator, make)
            assert len(order) == 4
        except ValueError as error:
            left[rank] = str(error)

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    if fails is None:
        assert left == {rank: rank for rank in range(4)}
    else:
        assert left.pop(fails) == "no data"
        assert set(left.values()) == {f"process {fails} could not open the data; see its message"}
