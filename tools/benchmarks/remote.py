"""A .beton at a URL against the same file on this disk: python tools/bench.py remote.

A server on loopback sends ranges, with a latency before the first byte of each reply. Every
measurement starts with an empty cache, and the local one with a cold page cache. It decodes
random views of an epoch, or of ``--steps``. CPU is that of the loader's process without the server.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch

from pipelines import build_loader, open_data
from pipelines.public.options import LoaderOptions
from pipelines.remote.file import RemoteOptions
from pipelines.sources.fetched import remote_files
from pipelines.sources.stored import InFiles
from pipelines.system import page_cache
from tools.benchmarks import harness
from tools.benchmarks.range_server import serving

LOCAL = "local"


@dataclass(frozen=True, kw_only=True)
class Arguments(harness.Options):
    """Compare remote data with local data."""

    data: Path
    """A .beton on this disk."""
    latencies: tuple[int, ...] = (0, 20, 100)
    """Milliseconds before the first byte of a reply, 0 to 999."""
    orders: tuple[Literal["random", "blocks"], ...] = ("random", "blocks")
    """Orders of the rows."""
    batch_size: int = 256
    """Images of a step."""
    steps: int | None = None
    """Steps of a measurement; None: an epoch."""
    size: int = 224
    """Side of the two views in pixels."""
    workers: int = 0
    """Decoding threads (0: one for each core)."""
    connections: int = 32
    """Requests in flight."""
    read_ahead: int = 8
    """Steps whose bytes are requested ahead."""
    repeats: int = 5
    """Number of measurements, in turns; the median counts."""
    folder: Path | None = None
    """Folder of the caches, on a local disk with room for the file (default: the system's)."""

    def __post_init__(self) -> None:
        harness.check_positive(self, "batch_size", "size", "connections", "repeats")
        if self.data.suffix != ".beton" or not self.data.is_file():
            raise ValueError(f"--data {self.data}: no .beton on this disk")
        if not all(0 <= latency <= 999 for latency in self.latencies):
            raise ValueError("--latencies are 0 to 999 milliseconds")


@dataclass(frozen=True)
class Measured:
    """One measurement."""

    images_per_second: float
    cpu_ms: float
    """Of the process, an image."""
    requests: int = 0
    bytes_fetched: int = 0
    over_read: float = 1.0
    """Bytes fetched for each byte of the images."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit status."""
    return harness.run_benchmark("remote", Arguments, run, argv)


def run(arguments: Arguments, _: list[str]) -> dict[str, Any]:
    """Measure in turns and print a Markdown table; return the results."""
    results = harness.record(torch.device("cpu"), "numpy", "numba", "obstore")
    cases = [(o, c) for o in arguments.orders for c in (LOCAL, *arguments.latencies)]
    found: dict[tuple[str, Any], list[Measured]] = {case: [] for case in cases}
    _measure(arguments, arguments.orders[0], LOCAL, steps=2)  # compiles
    for _turn in range(arguments.repeats):
        for order, contender in cases:
            found[order, contender].append(_measure(arguments, order, contender, arguments.steps))
    results["remote"] = [
        {"order": order, "latency_ms": contender, "measured": [vars(m) for m in values]}
        for (order, contender), values in found.items()
    ]
    print(harness.machine_line(results) + "\n")
    names = ("order", "latency", "images/s", "of local", "CPU ms an image", "of local")
    counts = ("requests", "MB fetched", "over-read")
    rows = [_cells(case, values, found[case[0], LOCAL]) for case, values in found.items()]
    print(harness.table((*names, *counts), rows))
    return results


def _cells(case: tuple[str, Any], values: list[Measured], local: list[Measured]) -> tuple[str, ...]:
    order, contender = case

    def ratio(name: str) -> float:
        """Return the median of the ratios of each turn."""
        pairs = zip(values, local, strict=True)
        return median(getattr(one, name) / getattr(other, name) for one, other in pairs)

    rate = median(one.images_per_second for one in values)
    cpu = median(one.cpu_ms for one in values)
    cells = (
        f"{rate:,.0f}",
        f"{ratio('images_per_second'):.3f}",
        f"{cpu:.2f}",
        f"{ratio('cpu_ms'):.2f}",
    )
    if contender == LOCAL:
        return order, LOCAL, *cells, "", "", ""
    last = values[-1]
    fetched = f"{last.bytes_fetched / 1e6:,.1f}", f"{last.over_read:.3f}"
    return order, f"{contender:g} ms", *cells, f"{last.requests:,}", *fetched


def _measure(arguments: Arguments, order: Any, contender: Any, steps: int | None) -> Measured:
    """Go through the steps with a cold cache."""
    page_cache.forget(arguments.data)
    with _opened(arguments, contender) as (spec, remote):
        data = open_data(spec, remote=remote)
        options = LoaderOptions(
            loader="ffcv", workers=arguments.workers or None, read_ahead=arguments.read_ahead
        )
        with build_loader(
            data, "moco-v2", arguments.batch_size, size=arguments.size, order=order,
            device="cpu", options=options,
        ) as loader:  # fmt: skip
            steps = steps or len(loader)
            began, cpu = time.perf_counter(), time.process_time()
            rows = [batch.index for batch in loader.loader.batches(0, steps)]
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        images = sum(len(row) for row in rows)
        rate, cpu_ms = images / seconds, 1000 * cpu / images
        files = remote_files(data.table.source)
        if not files:
            return Measured(rate, cpu_ms)
        assert isinstance(data.table.source, InFiles)
        shown = torch.cat(rows).unique().numpy()
        needed = int(data.table.source.pieces(shown).size.sum())
        requests = sum(file.counters.requests for file in files)
        fetched = sum(file.counters.bytes_fetched for file in files)
        for file in files:
            file.close()
        return Measured(rate, cpu_ms, requests, fetched, fetched / needed)


@contextlib.contextmanager
def _opened(arguments: Arguments, contender: Any) -> Iterator[tuple[str, RemoteOptions | None]]:
    """Yield what to open, and how; remote files go to a cache that is empty, and then removed."""
    if contender == LOCAL:
        yield str(arguments.data), None
        return
    cache = Path(tempfile.mkdtemp(dir=arguments.folder, prefix="unmix-remote-"))
    try:
        data = arguments.data.absolute()
        with serving(data.parent) as server:
            url = f"{server}/ms{round(contender):03}/{data.name}"
            yield url, RemoteOptions(cache, connections=arguments.connections)
    finally:
        shutil.rmtree(cache, ignore_errors=True)
