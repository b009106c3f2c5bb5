"""Two processes under a launcher: one dies, one hangs, signals arrive; none is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from attempts import WAIT, consumed, finish, nothing
from attempts import start as attempt
from launch_cases import flags
from launched import ACCELERATE, LONG, TORCHRUN, end, start, wait_for_steps
from runs import lines

from tools.runs import checkpoint

TOLD = (*TORCHRUN, "--signals-to-handle", "SIGTERM,SIGINT,SIGUSR1")
LAUNCHERS = {"torchrun": TORCHRUN, "told torchrun": TOLD, "accelerate": ACCELERATE}


def ranks_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The training processes below a launcher, by rank."""
    below = psutil.Process(process.pid).children(recursive=True)
    ranks = {p.environ()["RANK"]: p for p in below if "train.py" in " ".join(p.cmdline())}
    return [ranks[rank] for rank in sorted(ranks)]


def started(
    launcher: str, toy: Path, tmp_path: Path, *more: str
) -> tuple[subprocess.Popen[str], list[psutil.Process], Path]:
    """A run of two processes that has made two steps."""
    often = ("--epochs", "2000", "--checkpoint-every", "3", "--resume", "auto")
    command = (*flags(toy, tmp_path, "moco", "--mix", "unmix"), *often, *more)
    process = start(LAUNCHERS[launcher], command)
    wait_for_steps(process, tmp_path / "run", 2)
    ranks = ranks_of(process)
    assert len(ranks) == 2
    return process, ranks, tmp_path / "run"


def assert_gone(ranks: Sequence[psutil.Process], seconds: float = 30) -> None:
    _, alive = psutil.wait_procs(ranks, timeout=seconds)
    for process in alive:
        process.kill()
    assert not alive, "orphans"


@pytest.mark.parametrize(
    ("launcher", "whom", "number"),
    [
        ("torchrun", "launcher", signal.SIGTERM),
        ("told torchrun", "launcher", signal.SIGUSR1),
        ("torchrun", "rank", signal.SIGUSR1),
        ("accelerate", "launcher", signal.SIGTERM),
        ("accelerate", "rank", signal.SIGTERM),
        ("accelerate", "everybody", signal.SIGINT),
    ],
)
def test_a_signal_saves_and_leaves_no_orphans(
    toy: Path, tmp_path: Path, launcher: str, whom: str, number: int
) -> None:
    """RESUME is the promise, whatever becomes of the launcher's own status."""
    process, ranks, run = started(launcher, toy, tmp_path)
    if whom == "rank":
        ranks[1].send_signal(number)
    elif whom == "launcher":
        process.send_signal(number)
    else:
        os.killpg(process.pid, number)  # as a terminal does for Ctrl-C
    status, said = end(process)
    assert_gone(ranks)
    assert status != 0 and (run / "RESUME").exists(), said
    path = checkpoint.first_whole(checkpoint.find(run))
    assert checkpoint.step_of(path) == lines(run)[-1]["step"]


@pytest.mark.parametrize(
    ("launcher", "number"),
    [("torchrun", signal.SIGKILL), ("torchrun", signal.SIGUSR1), ("accelerate", signal.SIGUSR1)],
)
def test_a_launcher_that_dies_takes_its_processes_along(
    toy: Path, tmp_path: Path, launcher: str, number: int
) -> None:
    """The processes agree through its store, so they cannot save any more; nor do they train on."""
    process, ranks, run = started(launcher, toy, tmp_path)
    process.send_signal(number)
    status, said = end(process)
    assert_gone(ranks)
    assert status == -number and "train.py: lost contact: the launcher" in said, said
    assert checkpoint.first_whole(checkpoint.find(run))


@pytest.mark.parametrize(("launcher", "victim"), [("torchrun", 1), ("accelerate", 0)])
def test_a_rank_that_dies_ends_the_run_which_goes_on_alone(
    toy: Path, tmp_path: Path, launcher: str, victim: int
) -> None:
    process, ranks, run = started(launcher, toy, tmp_path)
    ranks[victim].kill()
    status, said = end(process)
    assert_gone(ranks)
    assert status != 0 and "train.py: lost contact" in said and "--resume auto" in said
    assert "-9" in said  # the launcher's own words on who died

    path = checkpoint.first_whole(checkpoint.find(run))
    saved = checkpoint.step_of(path)
    command = flags(toy, tmp_path, "moco", "--mix", "unmix")
    more = ("--resume", "auto", "--limit-steps", str(saved + 2))
    assert finish(attempt((*command, *LONG, *more), tmp_path / "rows", nothing)) == 0
    rows = consumed(tmp_path / "rows")
    straight = (*flags(toy, tmp_path / "one", "moco", "--mix", "unmix"), *LONG, *more[2:])
    assert finish(attempt(straight, tmp_path / "straight", nothing)) == 0
    assert [step for step, _ in rows] == [saved, saved + 1]
    assert consumed(tmp_path / "straight")[saved:] == rows


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_hangs_is_named_before_the_timeout_ends_the_run(
    toy: Path, tmp_path: Path, victim: int
) -> None:
    process, ranks, run = started("torchrun", toy, tmp_path, "--timeout-minutes", "0.4")
    ranks[victim].suspend()
    begin = time.monotonic()
    status, said = end(process)
    assert_gone(ranks)
    assert status != 0 and time.monotonic() - begin < WAIT
    assert f"process {victim}: does not answer since" in said, said
    assert said.index("no step was finished for") < said.index("train.py: lost contact")
    assert "Go on with --resume auto" in said
    assert "exitcode  : 2 " in said  # torchrun's word on the process that was left
    assert checkpoint.first_whole(checkpoint.find(run))
