"""Attempts at a run, each in a process that can be killed, and the rows each attempt consumed.

Processes are forked from a server that has already imported the trainer, within a second each.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from processes import SERVER
from runs import SHARE, skip_pictures

WAIT = 180
"""Seconds after which something hangs."""


def start(argv: Sequence[str], rows: Path, arrange: Callable[..., None], *args: Any) -> BaseProcess:
    """Start ``train.py argv`` in a process; its output goes to ``rows`` with the suffix .txt."""
    process = SERVER.Process(target=_attempt, args=(tuple(argv), rows, arrange, args))
    process.start()
    return process


def finish(process: BaseProcess) -> int:
    """Wait for a process; return its status."""
    process.join(WAIT)
    if process.exitcode is None:
        process.kill()
        raise AssertionError("an attempt hangs")
    return process.exitcode


def nothing() -> None:
    """Arrange for nothing to happen."""


def _attempt(
    argv: Sequence[str], rows: Path, arrange: Callable[..., None], args: Sequence[Any]
) -> None:
    with rows.with_suffix(".txt").open("a") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)
    os.environ.update([SHARE])
    note_rows(rows)
    arrange(*args)
    import train

    sys.exit(train.main(list(argv)))


def note_rows(path: Path) -> None:
    """Append the number and the rows of each step to a file, when it is done; draw no pictures."""
    from tools.engine import trainer

    step = trainer.Learner.train_on

    def train_on(run: Any, batch: Any) -> None:
        step(run, batch)
        with path.open("a") as file:
            file.write(json.dumps([batch.step, batch.index.tolist()]) + "\n")

    trainer.Learner.train_on = train_on
    skip_pictures(pytest.MonkeyPatch())


def consumed(rows: Path) -> list[tuple[int, list[int]]]:
    """What an attempt consumed; a line torn by its death is left out."""
    text = rows.read_text() if rows.exists() else ""
    whole = text[: text.rfind("\n") + 1].splitlines()
    return [(step, row) for step, row in map(json.loads, whole)]


def die_at(function: str, call: int) -> None:
    """Arrange for kill -9 at a call of one of the functions that a save is made of, counted.

    ``write`` is in the middle of the file's bytes; the others are before they take effect.
    """
    from tools.runs import checkpoint

    owner, name = {
        "write": (checkpoint._Hashed, "write"),
        "fsync": (os, "fsync"),
        "rename": (Path, "replace"),
        "remove": (Path, "unlink"),
    }[function]
    original, calls = getattr(owner, name), 0

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal calls
        if ".pt" in str(args[0]) or "last" in str(args[0]) or function in ("write", "fsync"):
            calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **options)

    setattr(owner, name, counted)
