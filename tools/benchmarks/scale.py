"""What the number of images costs, without their pixels: python tools/bench.py scale.

Each number of rows gets a .beton with a hole in place of the images, and a cache of its own, both
in a temporary folder that needs 100 bytes a row. Processes open it together, shuffle an epoch, and
prepare steps of it, twice: the rows, the crop windows of two views, and the byte ranges.

Seconds are those of the slowest process, by the clock and of the processor. Memory is what comes
on top of the processes' memory before they open the file. ``peak`` and ``after``, at the end, are
proportional set sizes summed over the processes, which count shared pages once; ``own`` is the most
anonymous memory of a process, which it shares with none.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from pipelines.beton.format import open_beton
from pipelines.presets import PRESETS
from pipelines.rng import RowRng
from pipelines.sampler import Sampler
from pipelines.sources.beton import Beton
from pipelines.sources.table import Table
from tools.benchmarks import harness
from tools.benchmarks.hollow import write_hollow
from tools.benchmarks.windows import draw_windows

STAGES = ("open", "open again", "shuffle", "steps", "steps again")
POLL = 0.2
"""Seconds between two looks at the processes' memory."""


@dataclass(frozen=True, kw_only=True)
class Arguments(harness.Options):
    """Measure what many rows cost to open, to shuffle and to go through."""

    rows: tuple[float, ...] = (1.28e6, 14e6, 100e6)
    """Numbers of images."""
    processes: tuple[int, ...] = (1, 8)
    """Numbers of processes of this machine."""
    batch_size: int = 256
    """Images of a step of each process."""
    steps: int = 200
    """Steps that are timed, spread over the epoch."""
    folder: Path | None = None
    """Folder of the temporary files (default: the system's); 100 bytes a row are needed."""

    def __post_init__(self) -> None:
        harness.check_positive(self, "batch_size", "steps")
        least = 2 * self.batch_size * max(self.processes, default=0)
        if min(self.processes, default=0) < 1:
            raise ValueError("--processes: each number must be above 0")
        if min(self.rows, default=0) < least:
            raise ValueError(f"--rows must be at least {least}: two batches of all --processes")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit status."""
    return harness.run_benchmark("scale", Arguments, run, argv)


def run(arguments: Arguments, _: list[str]) -> dict[str, Any]:
    """Measure and print a Markdown table; return the results."""
    results = harness.record(torch.device("cpu"), "numpy", "numba")
    results["scale"] = []
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="unmix-scale-") as folder:
        for rows in map(int, arguments.rows):
            path = Path(folder) / f"{rows}.beton"
            write_hollow(path, rows)
            for processes in arguments.processes:
                with tempfile.TemporaryDirectory(dir=folder) as cache:
                    results["scale"].append(_measure(path, rows, processes, Path(cache), arguments))
            path.unlink()
    print(harness.machine_line(results) + "\n")
    rows_of_table = [_cells(found) for found in results["scale"]]
    times = ("open s", "CPU s", "shuffle s", "CPU s", "open again ms", "step CPU ms", "again")
    memory = ("own MB", "peak MB", "after MB", "disk MB")
    print(harness.table(("rows", "processes", *times, *memory), rows_of_table))
    return results


def _cells(found: dict[str, Any]) -> tuple[str, ...]:
    seconds = found["seconds"]
    times = [f"{seconds[stage][cpu]:.2f}" for stage in ("open", "shuffle") for cpu in (0, 1)]
    again = f"{seconds['open again'][0] * 1e3:.1f}"
    memory = [f"{found[name] / 1e6:,.0f}" for name in ("own", "peak", "after", "disk")]
    step = [f"{seconds[stage][1] * 1e3:.2f}" for stage in ("steps", "steps again")]
    return f"{found['rows']:,}", str(found["processes"]), *times, again, *step, *memory


def _measure(
    path: Path, rows: int, processes: int, cache: Path, arguments: Arguments
) -> dict[str, Any]:
    """Return the seconds of each stage and the bytes of memory and of the cache."""
    seconds: dict[str, list[float]] = {}
    peak = 0
    with _workers(path, processes, cache, arguments) as workers:
        before = [memory_of(pid) for pid, _ in workers]
        for stage in STAGES:
            for _, pipe in workers:
                pipe.send(stage)
            left = [pipe for _, pipe in workers]
            found: list[list[float]] = []
            while left:
                for ready in wait(left, POLL):
                    assert isinstance(ready, Connection)
                    found.append(ready.recv())
                    left.remove(ready)
                now = [memory_of(pid) for pid, _ in workers]
                peak = max(peak, sum(pss for pss, _ in now))
            seconds[stage] = [max(of) for of in zip(*found, strict=True)]
    begin = sum(pss for pss, _ in before)
    return {
        "rows": rows,
        "processes": processes,
        "seconds": seconds,
        "own": max(own - was for (_, own), (_, was) in zip(now, before, strict=True)),
        "peak": peak - begin,
        "after": sum(pss for pss, _ in now) - begin,
        "disk": sum(file.stat().st_blocks * 512 for file in cache.rglob("*") if file.is_file()),
    }


def memory_of(pid: int) -> tuple[int, int]:
    """Return a process's proportional set size and its anonymous memory, in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    found = {name: int(rest.split()[0]) * 1024 for name, rest in (x.split(":") for x in lines)}
    return found["Pss"], found["Anonymous"]


@contextmanager
def _workers(
    path: Path, processes: int, cache: Path, arguments: Arguments
) -> Iterator[list[tuple[int, Connection]]]:
    """Yield the processes, ready to begin: their numbers and the pipes to them."""
    context = multiprocessing.get_context("spawn")
    started = []
    for rank in range(processes):
        here, there = context.Pipe()
        share = rank, processes, arguments.batch_size, arguments.steps
        process = context.Process(target=work, args=(there, path, cache, share), daemon=True)
        process.start()
        there.close()
        started.append((process, here))
    try:
        for _, pipe in started:
            pipe.recv()
        yield [(process.pid or 0, pipe) for process, pipe in started]
    finally:
        for process, pipe in started:
            pipe.close()
            process.terminate()
            process.join()


def work(pipe: Connection, path: Path, cache: Path, share: tuple[int, int, int, int]) -> None:
    """Do each stage that is asked for, and answer with its seconds; of a step, the mean."""
    os.environ |= {"UNMIX_CACHE": str(cache), "UNMIX_CACHE_LIMIT": "1000", "RANK": str(share[0])}
    importlib.import_module("pipelines.system.radix")  # a run has loaded numba
    worker = Worker(path, *share)
    pipe.send("ready")
    with contextlib.suppress(EOFError):
        while stage := pipe.recv():
            began = time.perf_counter(), time.process_time()
            count = worker.do(stage)
            taken = time.perf_counter() - began[0], time.process_time() - began[1]
            pipe.send([seconds / count for seconds in taken])


class Worker:
    """One process of a run, without its images."""

    table: Table
    sampler: Sampler

    def __init__(self, path: Path, rank: int, processes: int, batch_size: int, steps: int) -> None:
        self.path, self.rank, self.processes = path, rank, processes
        self.batch_size, self.steps = batch_size * processes, steps
        self.views = PRESETS["moco-v2"](224)

    def do(self, stage: str) -> int:
        """Do a stage; return how many times."""
        if stage.startswith("open"):
            self.table = open_beton(self.path)
            return 1
        if stage == "shuffle":
            rows = len(self.table)
            self.sampler = Sampler(rows, self.batch_size, 0, self.rank, self.processes)
            self.sampler.rows(0)
            return 1
        middle = self.sampler.steps_per_epoch // 2  # from which on the next epoch is made
        chosen = range(0, middle, max(middle // self.steps, 1))
        for step in chosen:
            self.prepare(step)
        return len(chosen)

    def prepare(self, step: int) -> None:
        """Do all of a step that depends on the table: rows, windows of two views, byte ranges."""
        assert isinstance(self.table.source, Beton)
        rows = self.sampler.rows(step)
        draw_windows(self.table, rows, self.views, RowRng(0, 0))
        self.table.source.pieces(rows)
