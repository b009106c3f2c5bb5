"""The benchmarks' shared code: options, measurements in turns, medians, records and tables."""

from __future__ import annotations

import contextlib
import json
import logging
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol, TypeVar

import psutil
import torch
import tyro

from pipelines.system.atomic import replacing
from tools.config.data_sets import sum_repeated
from tools.diagnostics.checks import release
from tools.distributed.launch import check_workers
from tools.runs.command import command
from tools.runs.machine import commit, machine

log = logging.getLogger(__name__)

Key = TypeVar("Key", str, tuple[str, str])
Rate = Callable[[int], float]
"""Number of steps -> images/s over them."""


# --------------------------------------------------------------------------------------- options


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every benchmark."""

    json: Path | None = None
    """Also write the results to this JSON file."""


@dataclass(frozen=True, kw_only=True)
class Timing(Options):
    """Length and number of measurements, and threads."""

    workers: int = 0
    """Threads, or worker processes of a DataLoader (0: one for each core)."""
    seconds: float = 3.0
    """Approximate length of a measurement, which takes at least one pass over the images."""
    repeats: int = 5
    """Number of measurements of each contender; the median counts."""

    def __post_init__(self) -> None:
        check_positive(self, "seconds", "repeats")
        check_workers(self.workers)


@dataclass(frozen=True, kw_only=True)
class Images(Options):
    """The images of a benchmark."""

    data: str
    """Images: folder:PATH, PATH.beton, or a named data set."""
    data_dir: Path = Path("data")
    """Folder of the published data sets."""


def check_positive(options: object, *names: str) -> None:
    """Check that numbers are above 0.

    Raises:
        ValueError: one is not; the message names the flag.
    """
    for name in names:
        if (value := getattr(options, name)) <= 0:
            raise ValueError(f"--{name.replace('_', '-')} must be above 0, not {value}")


Chosen = TypeVar("Chosen", bound=Options)


def run_benchmark(
    name: str,
    options: type[Chosen],
    measure: Callable[[Chosen, list[str]], dict[str, Any] | None],
    argv: Sequence[str] | None,
    *,
    train_flags: bool = False,
) -> int:
    """Parse the flags, call ``measure`` and write the results; return the exit status.

    With ``train_flags``, flags that do not belong to ``options`` are passed to ``measure`` for
    train.py's parser. In the main process ``measure`` prints its tables and returns the content of
    ``--json``; in the others it returns None.
    """
    prog = f"tools/bench.py {name}"
    words = list(sys.argv[1:] if argv is None else argv)

    def body() -> None:
        logging.basicConfig(format="%(message)s")
        logging.getLogger("tools.benchmarks").setLevel(logging.INFO)
        rest: list[str] = []
        about = sys.modules[measure.__module__].__doc__
        given: dict[str, Any] = {"prog": prog, "args": sum_repeated(words), "description": about}
        if train_flags:
            chosen, rest = tyro.cli(options, return_unknown_args=True, **given)
        else:
            chosen = tyro.cli(options, **given)
        results = measure(chosen, rest)
        if chosen.json is not None and results is not None:
            line = shlex.join(["python", "tools/bench.py", name, *words])
            text = json.dumps({"command": line, **results}, indent=1) + "\n"
            with replacing(chosen.json) as temporary:
                temporary.write_text(text, encoding="utf-8")

    return command(prog, body)


# ------------------------------------------------------------------------------------- measuring


class Contender(Protocol):
    """A source of batches to be measured."""

    warm: int
    """Number of batches until queues, memory and workers are in a steady state."""
    tail: int
    """Number of batches after the last that counts, so that no worker idles before it."""

    def run(self, steps: int) -> Iterator[Any]:
        """Yield ``steps`` batches; no work continues after the iterator has ended."""

    def close(self) -> None:
        """Release threads and processes."""


def drop(batch: object) -> None:
    """Do nothing with a batch, to measure the loader alone."""


def images_per_second(
    contender: Contender,
    steps: int,
    batch_size: int,
    work: Callable[[Any], object] = drop,
    device: torch.device | None = None,
    cpu: list[float] | None = None,
) -> float:
    """Return source images/s over ``steps`` batches that ``work`` takes, in a steady state.

    The CPU milliseconds of an image, worker processes included, are appended to ``cpu``.
    """
    batches = contender.run(contender.warm + steps + contender.tail)
    for _ in range(contender.warm):
        work(next(batches))
    spent = cpu_seconds()
    began = time.perf_counter()
    for _ in range(steps):
        work(next(batches))
    wait(device)
    seconds = time.perf_counter() - began
    if cpu is not None:
        cpu.append((cpu_seconds() - spent) * 1e3 / (steps * batch_size))
    deque(batches, maxlen=0)
    return steps * batch_size / seconds


def wait(device: torch.device | None) -> None:
    """Wait until a GPU has finished its queued work."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def timed_by_clock(device: torch.device | str) -> str:
    """Return what the host's clock measures of work on a device, for a table's heading."""
    on_gpu = torch.device(device).type == "cuda"
    return "timed: launches, by the host's clock" if on_gpu else "timed: host"


def rounds(names: Sequence[Key], repeats: int) -> Iterator[Key]:
    """Yield all names ``repeats`` times, alternately backwards, so that drift favours no name."""
    for repeat in range(repeats):
        yield from names if repeat % 2 == 0 else reversed(names)


def take_turns(
    contenders: Mapping[Key, Rate],
    batch_size: int,
    timing: Timing,
    *,
    unit: int = 1,
    least: int = 1,
) -> dict[Key, list[float]]:
    """Return ``timing.repeats`` measurements in images/s of each contender, taken in turns.

    A first measurement does not count: it compiles, starts workers and fills caches. It also sets
    the number of steps that take ``timing.seconds``: a multiple of ``unit``, at least ``least``.
    """
    steps = {}
    for name, rate in contenders.items():
        wanted = timing.seconds * rate(least * unit) / batch_size
        steps[name] = max(round(wanted / unit), least) * unit
        log.info("%s: %d steps a measurement", label(name), steps[name])
    rates: dict[Key, list[float]] = {name: [] for name in contenders}
    for name in rounds(list(contenders), timing.repeats):
        rates[name].append(contenders[name](steps[name]))
    return rates


def cpu_seconds() -> float:
    """Return the CPU time of this process and its child processes, also of those that ended."""
    this = psutil.Process()
    times = []
    for process in (this, *this.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended just now
            times.append(process.cpu_times())
    return sum(t.user + t.system + t.children_user + t.children_system for t in times)


def cpu_milliseconds(work: Callable[[], object], num_rows: int, repeats: int) -> float:
    """Return a thread's CPU milliseconds a row: the least of ``repeats`` calls after a warm-up."""
    times = []
    for _ in range(repeats + 1):
        began = time.thread_time()
        work()
        times.append(time.thread_time() - began)
    return min(times[1:]) * 1e3 / num_rows


# --------------------------------------------------------------------------------------- results


def record(device: torch.device, *packages: str) -> dict[str, Any]:
    """Return the commit and the machine, with the versions of the packages that are installed."""
    facts = machine(device)
    versions = {name: release(name) for name in packages}
    facts["versions"] |= {name: v for name, v in versions.items() if v != "installed"}
    return {"commit": commit(), "machine": facts}


def medians(rates: Mapping[Key, Sequence[float]]) -> dict[Key, float]:
    """Return the median of each."""
    return {name: median(values) for name, values in rates.items()}


def spreads(rates: Mapping[Key, Sequence[float]]) -> dict[Key, list[float]]:
    """Return the lowest and the highest of each."""
    return {name: [min(values), max(values)] for name, values in rates.items()}


def label(name: str | tuple[str, ...]) -> str:
    """Return a contender's name in one string."""
    return name if isinstance(name, str) else ", ".join(name)


def rate_cells(rate: float, spread: Sequence[float]) -> tuple[str, str]:
    """Return the cells of a throughput and of its lowest and highest value."""
    return f"{rate:,.0f}", f"{spread[0]:,.0f}-{spread[1]:,.0f}"


def machine_line(results: Mapping[str, Any]) -> str:
    """Return a table's first line: the machine, its load, the commit."""
    facts = results["machine"]
    where = ", ".join(name for name in (facts["gpu"], facts["cpu"]) if name)
    return (
        f"{where}, {facts['cores']} cores, load {facts['load']:.1f} at the start; "
        f"commit {results['commit']}"
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned Markdown table; the first column is text, the others are numbers."""
    widths = [max(len(cell) for cell in column) for column in zip(columns, *rows, strict=True)]
    rule = [f"{'-' * (width - 1)}{'-' if i == 0 else ':'}" for i, width in enumerate(widths)]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]
        return f"| {' | '.join(padded)} |"

    return "\n".join(map(line, (columns, rule, *rows)))
