"""Compare a first pass over images in an object store with one over local files.

Examples:
    python tools/bench.py store --data folder:PATH --opponents FOLDER
    python tools/bench.py store --data folder:PATH --latencies 0 100 --rows 1024

A server on 127.0.0.1 (``tools/benchmarks/range_server.py``) holds the images and answers each
request after a latency. A measurement opens the data with an empty cache, and ends with the last
batch of a pass: two views, cropped and flipped. Ours reads a .beton, and normalizes too; LitData
and MosaicML streaming (``tools/bench.py loaders --help``) read their own format by S3's protocol.
The images are repeated until there are enough rows, each of them stored.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from pipelines.beton.convert import CACHE_SETTINGS, convert
from pipelines.data_facts import IMAGENET
from pipelines.datasets import open_data
from pipelines.decoders.build import build_decoder
from pipelines.loader import Loader
from pipelines.remote.file import RemoteOptions
from pipelines.sampler import BlockShuffle, Sampler
from pipelines.sources.table import Table
from pipelines.step_maker import StepMaker
from pipelines.views import ViewPlan
from tools.benchmarks import harness
from tools.benchmarks.loaders import views
from tools.benchmarks.opponents import Bucket, Opponent, versions
from tools.benchmarks.range_server import serving
from tools.benchmarks.setting import Setting
from tools.distributed.launch import cores_per_process

Name = Literal["local", "random", "blocks", "litdata", "mosaicml"]
TITLES: dict[Name, str] = {
    "local": "unmix, local file",
    "random": "unmix, remote",
    "blocks": "unmix, remote, --order blocks",
    "litdata": "LitData, remote",
    "mosaicml": "MosaicML streaming, remote",
}
READ_AHEAD = 8
"""Steps whose bytes are requested ahead (the default of --read-ahead)."""
BLOCK_ROWS, WINDOW_BLOCKS = 64, 8
"""Rows of a block, and blocks of the window: fewer than in training, as is all the data."""
BETON = "train.beton"


@dataclass(frozen=True, kw_only=True)
class Arguments(harness.Images):
    """Measure images/s of a first pass over remote images, in turns."""

    loaders: tuple[Name, ...] = get_args(Name)
    """Loaders to measure."""
    latencies: tuple[int, ...] = (0, 20, 100)
    """Milliseconds before the server answers a request, 0 to 999."""
    opponents: Path | None = None
    """Folder with the packages of requirements-bench.txt; without it their loaders are left out."""
    workers: int = 0
    """Threads, or worker processes of a DataLoader (0: one for each core)."""
    rows: int = 2048
    """Rows of a pass; a whole number of batches for each worker is used."""
    batch_size: int = 64
    """Images a batch."""
    size: int = 224
    """Side of a view in pixels."""
    repeats: int = 3
    """Number of measurements of each; the median counts."""

    def __post_init__(self) -> None:
        harness.check_positive(self, "rows", "batch_size", "size", "repeats")
        if not all(0 <= latency <= 999 for latency in self.latencies):
            raise ValueError("--latencies are 0 to 999 milliseconds")
        if self.rows < self.batch_size * (self.workers or cores_per_process()):
            raise ValueError(f"--rows {self.rows} must hold a batch for each worker")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; return the exit status."""
    return harness.run_benchmark("store", Arguments, run, argv)


def run(arguments: Arguments, _: list[str]) -> dict[str, Any]:
    """Measure and print; return the results."""
    workers = arguments.workers or cores_per_process()
    whole = open_data(arguments.data, arguments.data_dir)
    unit = arguments.batch_size * workers
    rows = np.arange(arguments.rows // unit * unit)
    table = whole.take(rows % len(whole))
    results: dict[str, Any] = harness.record(torch.device("cpu"), "obstore")
    names = ("batch_size", "size", "repeats", "latencies")
    results["setting"] = {"rows": len(table), "workers": workers}
    results["setting"] |= {name: getattr(arguments, name) for name in names}
    if arguments.opponents is not None:
        results["opponents_versions"] = versions(arguments.opponents)
    with tempfile.TemporaryDirectory(prefix="unmix-bench-") as folder, ExitStack() as stack:
        root = Path(folder)
        (root / "served").mkdir()
        convert(table, root / "served" / BETON, CACHE_SETTINGS, "stop", arguments.data)
        endpoint = stack.enter_context(serving(root / "served"))
        given = (
            table.take(np.arange(len(table))),
            None,
            rows,
            Sampler(len(table), arguments.batch_size),
        )
        plain = views("two", arguments.size)
        setting = Setting(*given, plain, False, "antialias", workers, arguments.opponents)
        passes, results["left_out"] = contenders(arguments, setting, root, endpoint, stack)
        rates: dict[tuple[str, str], list[float]] = {key: [] for key in passes}
        for key in passes:  # compiles, and brings all files into the page cache
            passes[key]()
        for key in harness.rounds(list(passes), arguments.repeats):
            rates[key].append(passes[key]())
    middle, spread = harness.medians(rates), harness.spreads(rates)
    results["images_per_second"] = {harness.label(key): value for key, value in middle.items()}
    results["spread"] = {harness.label(key): value for key, value in spread.items()}
    show(arguments, results, middle, spread)
    return results


Pass = Callable[[], float]


def contenders(
    arguments: Arguments, setting: Setting, root: Path, endpoint: str, stack: ExitStack
) -> tuple[dict[tuple[str, str], Pass], dict[str, str]]:
    """Return a pass of each loader and latency, and why others were left out."""
    passes: dict[tuple[str, str], Pass] = {}
    left_out: dict[str, str] = {}
    for name in arguments.loaders:
        if name == "local":
            passes[name, "-"] = partial(ours, str(root / "served" / BETON), setting, root)
            continue
        for latency in arguments.latencies:
            key, bucket = (name, f"{latency} ms"), f"ms{latency:03}"
            if name in ("random", "blocks"):
                where = f"{endpoint}/{bucket}/{BETON}"
                passes[key] = partial(ours, where, setting, root, blocks=name == "blocks")
                continue
            store = Bucket(root / "served", f"s3://{bucket}", endpoint)
            try:
                one = Opponent(setting, name, store)
            except ValueError as error:
                left_out[name] = str(error)
                break
            stack.callback(one.close)
            passes[key] = partial(theirs, one, setting.order)
    return passes, left_out


def ours(where: str, setting: Setting, root: Path, *, blocks: bool = False) -> float:
    """Open a .beton and make all batches of an epoch; return images/s."""
    with tempfile.TemporaryDirectory(dir=root) as cache:
        began = time.perf_counter()
        table = open_data(where, root, remote=RemoteOptions(Path(cache)))
        size = setting.order.batch_size
        shuffle = by_blocks(table) if blocks else None
        order = Sampler(len(table), size, blocks=shuffle)
        decoder = build_decoder(
            "ffcv", table, interpolation=setting.interpolation, workers=setting.workers,
            device=torch.device("cpu"), on_bad="stop",
        )  # fmt: skip
        try:
            maker = StepMaker(
                table, order, ViewPlan(setting.views), decoder, IMAGENET.mean, IMAGENET.std,
                workers=setting.workers,
            )  # fmt: skip
            steps = order.steps_per_epoch
            deque(Loader(maker, read_ahead=READ_AHEAD).batches(0, steps), maxlen=0)
            return steps * size / (time.perf_counter() - began)
        finally:
            decoder.close()


def by_blocks(table: Table) -> BlockShuffle:
    """Return a shuffle by blocks of rows that follow each other in the file."""
    return BlockShuffle(table.source.file_order(), groups=1, size=BLOCK_ROWS, window=WINDOW_BLOCKS)


def theirs(one: Opponent, order: Sampler) -> float:
    """Make all batches of an epoch; return images/s."""
    began = time.perf_counter()
    batches = one.run(order.steps_per_epoch)
    for _ in range(order.steps_per_epoch):
        next(batches)
    seconds = time.perf_counter() - began
    deque(batches, maxlen=0)  # until its processes have ended
    return order.steps_per_epoch * order.batch_size / seconds


def show(
    arguments: Arguments,
    results: dict[str, Any],
    middle: dict[tuple[str, str], float],
    spread: dict[tuple[str, str], list[float]],
) -> None:
    """Print the machine and a table: a row for each loader and latency."""
    local = middle.get(("local", "-"))
    lines = [
        (
            TITLES[key[0]],  # type: ignore[index]
            key[1],
            *harness.rate_cells(rate, spread[key]),
            f"{rate / local:.2f}" if local else "",
        )
        for key, rate in middle.items()
    ]
    print(harness.machine_line(results))
    print(
        f"{results['setting']['rows']} rows, batches of {arguments.batch_size}, "
        f"{results['setting']['workers']} threads or processes; a first pass, opening included"
    )
    print(harness.table(("loader", "latency", "images/s", "min-max", "of local"), lines))
    for name, why in results["left_out"].items():
        print(f"left out: {name}: {why}")
