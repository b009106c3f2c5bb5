"""kill -9 at twenty moments: no row is lost or repeated, and the weights are those of one run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attempts import WAIT, consumed, die_at, finish, nothing, start
from launch_cases import flags
from runs import lines

from tools.runs import checkpoint

STEPS = 120
MORE = ("--mix", "unmix", "--checkpoint-every", "5", "--limit-steps", str(STEPS))
INSIDE_A_SAVE = (
    *(("write", 1), ("write", 30), ("write", 90), ("fsync", 1), ("fsync", 2), ("fsync", 3)),
    *(("rename", 1), ("rename", 2), ("remove", 1), ("write", 400)),
)


def weights(run: Path) -> dict[str, torch.Tensor]:
    path = checkpoint.first_whole(checkpoint.find(run))
    state = checkpoint.load(path)
    assert state["step"] == STEPS
    return state["method"]


@pytest.mark.parametrize("method", ["moco"])
def test_killed_twenty_times(toy: Path, tmp_path: Path, method: str) -> None:
    straight = flags(toy, tmp_path / "a", method, *MORE, "--epochs", "100")
    assert finish(start(straight, tmp_path / "straight", nothing)) == 0
    command = (*flags(toy, tmp_path / "b", method, *MORE, "--epochs", "100"), "--resume", "auto")
    rng, attempts = np.random.default_rng(0), []

    def attempt(arrange: Any = nothing, *args: Any) -> tuple[Path, Any]:
        rows = tmp_path / f"rows-{len(attempts)}"
        attempts.append(rows)
        return rows, start(command, rows, arrange, *args)

    moments = [*INSIDE_A_SAVE, *rng.integers(0, 9, 20 - len(INSIDE_A_SAVE)).tolist()]
    for i in rng.permutation(len(moments)):
        moment = moments[i]
        if isinstance(moment, tuple):
            rows, process = attempt(die_at, *moment)
        else:
            rows, process = attempt()
            until = time.monotonic() + WAIT
            while len(consumed(rows)) < moment and time.monotonic() < until:
                time.sleep(0.005)
            time.sleep(rng.random() * 0.05)
            process.kill()
        assert finish(process) == -9, rows.with_suffix(".txt").read_text()
    rows, process = attempt()
    assert finish(process) == 0, rows.with_suffix(".txt").read_text()

    want = consumed(tmp_path / "straight")
    assert [step for step, _ in want] == list(range(STEPS))
    reached = 0
    for rows in attempts:
        seen = consumed(rows)
        if seen:  # it goes on where a checkpoint was, and sees the straight run's rows
            first = seen[0][0]
            assert first <= reached and seen == want[first : first + len(seen)]
            reached = max(reached, first + len(seen))
    assert reached == STEPS
    a, b = (weights(tmp_path / x / "run") for x in "ab")
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    losses = [[(m["step"], m["loss"], m["lr"]) for m in lines(tmp_path / x / "run")] for x in "ab"]
    assert losses[0] == losses[1] and len(losses[0]) == STEPS
    left = {path.name for path in (tmp_path / "b" / "run" / "checkpoints").iterdir()}
    assert left == {"last", f"step-{STEPS - 5}.pt", f"step-{STEPS}.pt"}
