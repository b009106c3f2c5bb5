"""tools/launch/, with an ``ssh`` and a ``srun`` that start processes on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from launch_cases import flags
from launched import LONG, ROOT, end, wait_for_steps
from runs import lines

from tools.runs import checkpoint

SSH = """#!/usr/bin/env bash
set -o pipefail
setsid bash -c "$2" | cat
"""
"""What it starts is out of the terminal's reach, as on another machine; its words end with it."""
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
export SLURM_NTASKS=2 SLURM_STEP_TASKS_PER_NODE="2(x1)"
tasks=()
for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & tasks+=($!); done
trap 'kill -USR1 "${tasks[@]}"' USR1
highest=0
for task in "${tasks[@]}"; do
    while wait "$task"; status=$?; kill -0 "$task" 2>/dev/null; do :; done
    [ "$status" -le "$highest" ] || highest=$status
done
exit "$highest"
"""
SCONTROL = """#!/usr/bin/env bash
[ "$1" = requeue ] && echo "$2" >>"$REQUEUED" || echo 127.0.0.1
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables with which the commands above are found before any real ones."""
    bin = tmp_path / "bin"
    bin.mkdir()
    for name, text in (("ssh", SSH), ("srun", SRUN), ("scontrol", SCONTROL)):
        (bin / name).write_text(text)
        (bin / name).chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return os.environ | {
        "PATH": f"{bin}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "PORT": str(port),
        "REQUEUED": str(tmp_path / "requeued"),
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_JOB_ID": str(port - 20000),
    }


def start(environment: dict[str, str], script: str, *argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(ROOT / "tools/launch" / script), *argv],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's jobs ignore it
    )


@pytest.mark.parametrize(
    ("script", "hosts", "status", "ctrl_c"),
    [
        ("ssh.sh", ("127.0.0.1 again", "1"), None, False),
        ("ssh.sh", ("127.0.0.1 again", "1"), None, True),
        ("slurm.sh", (), 75, False),
    ],
)
def test_a_run_is_stopped_by_a_signal_and_goes_on(
    toy: Path,
    tmp_path: Path,
    environment: dict[str, str],
    script: str,
    hosts: tuple[str, ...],
    status: int | None,
    ctrl_c: bool,
) -> None:
    """Slurm signals the tasks of a step, ssh.sh its launchers; the job puts itself back.

    A terminal's Ctrl-C comes to ssh.sh and to each ssh.
    """
    run, argv = tmp_path / "run", (*hosts, *flags(toy, tmp_path, "moco", "--mix", "unmix"))
    process = start(environment, script, *argv, *LONG)
    wait_for_steps(process, run, 2)
    if script == "slurm.sh":
        (srun,) = subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
        ).stdout.split()
        os.kill(int(srun), signal.SIGUSR1)
    elif ctrl_c:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGTERM)
    code, said = end(process)
    assert code == status if status else code != 0, said
    assert (run / "RESUME").exists(), said
    requeued = tmp_path / "requeued"
    assert requeued.exists() == (script == "slurm.sh")
    saved = checkpoint.step_of(checkpoint.first_whole(checkpoint.find(run)))
    assert saved == lines(run)[-1]["step"]

    more = ("--resume", "auto", "--limit-steps", str(saved + 2))
    code, said = end(start(environment, script, *argv, *LONG, *more))
    assert code == 0, said
    assert [line["step"] for line in lines(run)] == list(range(1, saved + 3))
    assert {line["world_size"] for line in lines(run)} == {2}
