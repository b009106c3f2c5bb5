"""Runs started through launchers: wait for them, and end them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runs import SHARE

ROOT = Path(__file__).parents[2]


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")


ACCELERATE = (
    *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
    *("--main_process_port", "0"),
)


LONG = ("--epochs", "2000", "--checkpoint-every", "1")


WAIT = 180
"""Seconds after which something hangs."""


def start(module: Sequence[str], arguments: Sequence[str]) -> subprocess.Popen[str]:
    """Run train.py from the checkout, through a launcher's module if one is given."""
    command = [sys.executable, *(("-m", *module) if module else ()), "train.py", *arguments]
    own = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    environment = {k: v for k, v in os.environ.items() if k not in own} | dict([SHARE])
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a process; return its status and what it said."""
    try:
        said, _ = process.communicate(timeout=WAIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, said


def wait_for_steps(process: subprocess.Popen[str], run: Path, steps: int) -> None:
    """Wait until a running process has logged ``steps`` steps and saved once."""
    until = time.monotonic() + WAIT
    while time.monotonic() < until and process.poll() is None:
        logged = (run / "metrics.jsonl").exists() and len(complete_lines(run))
        if logged >= steps and (run / "checkpoints" / "last").exists():
            return
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    raise AssertionError(process.communicate()[0])


def complete_lines(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run that may be writing."""
    text = (run / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
