"""Under NCCL, a process that waits in vain ends with status 2 and says how to go on."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from torch.distributed import HashStore

from tools.distributed import lost_contact
from tools.distributed.lost_contact import LostContact, timeout_that_aborts


class Group:
    """Three processes' notes and a clock; this process is the first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store, self.now, self.beats, self.said = HashStore(), 0.0, 0, list[str]()
        self.place = "train.py collective line 1"
        monkeypatch.setattr(lost_contact, "place_of", lambda thread: self.place)
        self.contact = LostContact(
            self.store, range(3), 600.0, 5.0, self.said.append, lambda: self.now
        )

    def until(self, seconds: float, others: str, silent: tuple[int, ...] = ()) -> None:
        while self.now < seconds:
            self.now, self.beats = self.now + 5, self.beats + 1
            for rank in {0, 1, 2} - set(silent):
                place = self.place if rank == 0 else others
                self.store.set(f"at/{rank}", json.dumps([self.beats, 7, place]))
            self.contact.beat(7)


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Group:
    return Group(monkeypatch)


def test_a_process_that_does_not_answer_is_lost_before_the_timeout(group: Group) -> None:
    group.until(20, group.place)
    group.until(480, group.place, silent=(2,))
    assert not group.said
    group.until(500, group.place, silent=(2,))
    said = group.said[0]  # the process would have ended
    assert said.endswith("at train.py collective line 1, after step 7; process 2 does not answer")


def test_a_process_that_is_stuck_elsewhere_is_lost(group: Group) -> None:
    group.until(500, "pipelines/loader.py _next line 9")
    said = group.said[0]  # the process would have ended
    assert "process 1 is at pipelines/loader.py _next line 9, process 2" in said


def test_all_at_the_same_line_compute(group: Group) -> None:
    group.until(2000, group.place)
    assert not group.said


def test_a_process_that_moves_is_not_lost(group: Group) -> None:
    for number in range(10):
        group.place = f"eval.py work line {number}"
        group.until(group.now + 300, "elsewhere")
    assert not group.said


def test_only_nccl_s_timeout_aborts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert timeout_that_aborts(600) is None  # no group
    monkeypatch.setattr(lost_contact.dist, "is_initialized", lambda: True)
    for backend, expected in (("gloo", None), ("nccl", 600), ("cpu:gloo,cuda:nccl", 600)):
        monkeypatch.setattr(lost_contact.dist, "get_backend", lambda b=backend: b)
        assert timeout_that_aborts(600) == expected


HANGS = """
import threading, time
from types import SimpleNamespace
from torch.distributed import HashStore
from tools.distributed import preemption

class Broken:
    def check(self, keys):
        raise RuntimeError("the store is gone")

preemption.shared_store = lambda name: {store}
preemption.timeout_that_aborts = lambda seconds: seconds
accelerator = SimpleNamespace(num_processes=2, process_index=0)
with preemption.StopSignal(accelerator, 3, "run", 0.6, 1.0):
    threading.Event().wait(30)  # a collective that never returns
"""


@pytest.mark.parametrize(
    ("store", "what"),
    [("HashStore()", "process 1 does not answer"), ("Broken()", "the launcher or the first")],
)
def test_a_hanging_main_thread_is_ended_with_status_2(store: str, what: str) -> None:
    """The timeout of NCCL is faked: one second."""
    command: Any = [sys.executable, "-c", HANGS.format(store=store)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 2, run.stderr
    lost, advice = run.stderr.strip().splitlines()[-2:]
    assert lost.startswith("train.py: lost contact: ") and what in lost
    assert advice == "Go on with --resume auto"
