"""Two machines made of namespaces on this one: a run on both continues after one of them dies.

Each machine has its own processes, network card and, optionally, disk. A virtual cable with private
addresses joins the two and leads nowhere else. Root is required.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
from attempts import WAIT, consumed, finish, nothing
from attempts import start as attempt
from launch_cases import flags
from runs import lines

from tools.runs import checkpoint

NOTED = Path(__file__).with_name("noted.py")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
UNSHARE = ("unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child")
STEPS = 4
LONG = ("--mix", "unmix", "--epochs", "2000", "--checkpoint-every", "3", "--resume", "auto")


class Host:
    """A machine, until its ``pid`` is killed: then all its processes are gone, and its disk."""

    def __init__(self, name: str) -> None:
        command = [*UNSHARE, "--mount-proc", "sh", "-c", f"hostname {name} && exec sleep infinity"]
        self._holder = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 20
        while not (inside := psutil.Process(self._holder.pid).children()):
            if self._holder.poll() is not None or time.monotonic() > until:
                pytest.skip("namespaces of network, processes and mounts are not permitted here")
            time.sleep(0.02)
        self.pid = inside[0].pid

    def command(self, *command: str) -> list[str]:
        """What to start here to run a command there."""
        return [
            "nsenter",
            f"--target={self.pid}",
            *("--net", "--mount", "--uts", "--pid"),
            *command,
        ]

    def run(self, *command: str) -> None:
        subprocess.run(self.command(*command), check=True)

    def die(self) -> None:
        self._holder.kill()
        self._holder.wait()


@contextmanager
def two_hosts() -> Iterator[list[Host]]:
    """Two machines and the cable between them."""
    with ExitStack() as stack:
        hosts = []
        for i in range(2):
            hosts.append(Host(f"host{i}"))
            stack.callback(hosts[-1].die)
        one, two = (f"netns {host.pid}" for host in hosts)
        cable = f"ip link add eth0 {one} type veth peer name eth0 {two}"
        if subprocess.run(cable.split(), capture_output=True, check=False).returncode:
            pytest.skip("virtual network cards are not permitted here")
        for host, address in zip(hosts, ADDRESSES, strict=True):
            host.run("ip", "addr", "add", f"{address}/24", "dev", "eth0")
            host.run("ip", "link", "set", "eth0", "up")
            host.run("ip", "link", "set", "lo", "up")
        yield hosts


def launch(
    hosts: Sequence[Host], rows: Path, argv: Sequence[str]
) -> tuple[subprocess.Popen[str], subprocess.Popen[str]]:
    """Start one process of a run on each machine, as docs/scaling.md says."""
    started = []
    for rank, host in enumerate(hosts):
        command = (
            *("env", "GLOO_SOCKET_IFNAME=eth0", sys.executable, "-m", "accelerate.commands.launch"),
            *("--multi_gpu", "--num_machines", "2", "--num_processes", "2"),
            *("--machine_rank", str(rank), "--main_process_ip", ADDRESSES[0]),
            *("--main_process_port", "29500", "--mixed_precision", "no"),
            *("--dynamo_backend", "no", str(NOTED), str(rows), *argv),
        )
        started.append(
            subprocess.Popen(
                host.command(*command),
                stdout=rows.with_name(f"{rows.name}-host{rank}.txt").open("w"),
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return started[0], started[1]


def said(rows: Path, rank: int) -> str:
    return rows.with_name(f"{rows.name}-host{rank}.txt").read_text()


def wait_for_steps(process: subprocess.Popen[str], rows: Path, run: Path, steps: int) -> None:
    until = time.monotonic() + WAIT
    while len(consumed(rows)) < steps or not checkpoint.available(run / "checkpoints"):
        assert process.poll() is None and time.monotonic() < until, said(rows.with_name("rows"), 0)
        time.sleep(0.05)


def joined(rows: Path) -> list[tuple[int, list[int]]]:
    """The rows of each step on both machines, in the order of their processes."""
    parts = (consumed(rows.with_name(f"{rows.name}-{rank}")) for rank in range(2))
    return [(step, a + b) for (step, a), (_, b) in zip(*parts, strict=True)]


@pytest.fixture(scope="module")
def straight(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process that trains without a break; its rows, with its run beside them."""
    folder = tmp_path_factory.mktemp("straight")
    argv = (*flags(toy, folder, "moco", *LONG), "--limit-steps", "60")
    assert finish(attempt(argv, folder / "rows", nothing)) == 0
    return folder / "rows"


def test_two_machines_train_as_one_process(toy: Path, tmp_path: Path, straight: Path) -> None:
    argv = (*flags(toy, tmp_path, "moco", *LONG), "--limit-steps", str(STEPS))
    with two_hosts() as hosts:
        for rank, process in enumerate(launch(hosts, tmp_path / "rows", argv)):
            assert process.wait(WAIT) == 0, said(tmp_path / "rows", rank)
    assert joined(tmp_path / "rows") == consumed(straight)[:STEPS]
    many, one = lines(tmp_path / "run"), lines(straight.with_name("run"))[:STEPS]
    assert [line["world_size"] for line in many] == [2] * STEPS
    losses = [[line["loss"] for line in of] for of in (many, one)]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-5)  # before any rounding could grow
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_machine_dies_and_the_run_goes_on(
    toy: Path, tmp_path: Path, straight: Path, lost: int
) -> None:
    """The other one ends with a message in time; then one process goes on, then two machines."""
    run, argv = tmp_path / "run", flags(toy, tmp_path, "moco", *LONG)
    with two_hosts() as hosts:
        short = (*argv, "--timeout-minutes", "0.4")
        processes = launch(hosts, tmp_path / "rows", short)
        wait_for_steps(processes[0], tmp_path / "rows-0", run, 4)
        hosts[lost].die()
        begin = time.monotonic()
        assert processes[1 - lost].wait(WAIT) != 0
        words = said(tmp_path / "rows", 1 - lost)
        assert "train.py: lost contact" in words and "--resume auto" in words
        assert time.monotonic() - begin < 120, words
    saved = checkpoint.step_of(checkpoint.first_whole(checkpoint.find(run)))
    assert saved >= 3

    more = ("--limit-steps", str(saved + 2))
    assert finish(attempt((*argv, *more), tmp_path / "alone", nothing)) == 0
    with two_hosts() as hosts:
        again = (*argv, "--limit-steps", str(saved + 4))
        for rank, process in enumerate(launch(hosts, tmp_path / "again", again)):
            assert process.wait(WAIT) == 0, said(tmp_path / "again", rank)
    rows = consumed(tmp_path / "alone") + joined(tmp_path / "again")
    assert rows == consumed(straight)[saved : saved + 4]
    assert [line["world_size"] for line in lines(run)[saved:]] == [1, 1, 2, 2]


def test_a_cable_is_pulled_out_and_both_machines_stop(toy: Path, tmp_path: Path) -> None:
    argv = (*flags(toy, tmp_path, "moco", *LONG), "--timeout-minutes", "0.4")
    with two_hosts() as hosts:
        processes = launch(hosts, tmp_path / "rows", argv)
        wait_for_steps(processes[0], tmp_path / "rows-0", tmp_path / "run", 4)
        hosts[1].run("ip", "link", "set", "eth0", "down")
        for rank, process in enumerate(processes):
            assert process.wait(WAIT) != 0
            assert "train.py: lost contact" in said(tmp_path / "rows", rank)
        assert checkpoint.first_whole(checkpoint.find(tmp_path / "run"))


def test_a_machine_with_a_disk_of_its_own_is_sent_the_checkpoint(
    toy: Path, tmp_path: Path, straight: Path
) -> None:
    """The first process writes; a machine that has no such folder needs none."""
    output = tmp_path / "output"
    output.mkdir()
    argv = flags(toy, output, "moco", *LONG)
    first = (*argv, "--limit-steps", "2")
    assert finish(attempt(first, tmp_path / "before", nothing)) == 0
    with two_hosts() as hosts:
        hosts[1].run("mount", "-t", "tmpfs", "tmpfs", str(output))
        more = (*argv, "--limit-steps", "4")
        for rank, process in enumerate(launch(hosts, tmp_path / "rows", more)):
            assert process.wait(WAIT) == 0, said(tmp_path / "rows", rank)
        assert not list(Path(f"/proc/{hosts[1].pid}/root{output}").iterdir())
    assert joined(tmp_path / "rows") == consumed(straight)[2:4]
