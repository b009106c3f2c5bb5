"""Compare our loaders with stock FFCV, torchvision and lightly on one set of images.

python tools/bench.py loaders --data folder:PATH --json loaders.json
python tools/bench.py loaders --data train.beton --cases two --interpolation bilinear

All run in one process, taking turns, on the same images in the same order; see
``tools/benchmarks/contenders.py`` for what each one does. A measurement is the time between two
batches, a whole number of passes over the images apart, after the queues have settled; the first
one of each contender, which compiles, does not count.
"""

from __future__ import annotations

import json
import logging
import math
import shlex
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from pipelines.beton.convert import cached_beton
from pipelines.datasets import open_data
from pipelines.decoders import Interpolation, MissingPackage
from pipelines.presets import PRESETS
from pipelines.sampler import Sampler
from pipelines.sources.table import Table
from pipelines.views import View
from tools.benchmarks.contenders import COLOUR_FREE, CONTENDERS, Contender, Setting
from tools.diagnostics.checks import is_installed, release
from tools.distributed.launch import check_workers, cores_per_process
from tools.runs.machine import commit, machine

log = logging.getLogger("bench_loaders")

Case = Literal["one", "two", "moco-v2", "multicrop"]
TITLES: dict[Case, str] = {
    "one": "one view: crop, flip",
    "two": "two views: crop, flip",
    "moco-v2": "two views: complete MoCo v2, normalised float32",
    "multicrop": "SwAV, two large and six small views: crop, flip",
}
RATIOS: dict[str, tuple[Case, str]] = {
    "two_views_vs_stock_ffcv": ("two", "stock-ffcv"),
    "two_views_vs_decode_ceiling": ("two", "decode-only"),
    "multicrop_vs_stock_ffcv": ("multicrop", "stock-ffcv"),
    "moco_v2_vs_torchvision": ("moco-v2", "torchvision"),
}
"""Our ffcv loader's images/s in a case, over whose."""
PACKAGES = ("torchvision", "numpy", "numba", "pillow", "ffcv", "nvidia-dali-cuda130", "lightly")


@dataclass(frozen=True)
class Arguments:
    """Measure images/s of our loaders and of others, side by side."""

    data: str
    """folder:PATH, PATH.beton, or a named set."""
    json: Path | None = None
    """Write the results to this file as well."""
    workers: int = 0
    """Decoding threads, or worker processes of a DataLoader; 0: one for each core."""
    repeats: int = 5
    """Measurements of each loader, of which the median counts."""
    seconds: float = 3.0
    """About how long a measurement takes; at least one pass over the images."""
    cases: tuple[Case, ...] = ("one", "two", "moco-v2", "multicrop")
    """What is done to an image."""
    loaders: tuple[str, ...] = tuple(CONTENDERS)
    """Who takes part."""
    interpolation: Interpolation = "antialias"
    """Our filter. Stock FFCV has area only, PIL always antialiases."""
    batch_size: int = 64
    """Images per batch."""
    images: int = 512
    """At most so many images, spread over the data, are used: a whole number of batches."""
    size: int = 224
    """Side of a view in pixels; the small views of multicrop have 96/224 of it."""
    data_dir: Path = Path("data")
    """Where the published files of the named sets lie."""

    def __post_init__(self) -> None:
        least = min(self.repeats, self.batch_size, self.size, self.images // self.batch_size or 0)
        if least < 1 or self.seconds <= 0:
            raise ValueError(
                "--repeats, --seconds, --batch-size and --size are positive and --images holds a "
                "batch"
            )
        check_workers(self.workers)
        if unknown := set(self.loaders) - set(CONTENDERS):
            raise ValueError(f"--loaders {' '.join(unknown)}: choose from {' '.join(CONTENDERS)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    threads = torch.get_num_threads()
    try:
        arguments = tyro.cli(Arguments, args=argv)
        arguments = replace(arguments, workers=arguments.workers or cores_per_process())
        torch.set_num_threads(arguments.workers)
        results = run(arguments, list(sys.argv[1:] if argv is None else argv))
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(results, indent=1) + "\n")
        return 0
    except (ValueError, OSError, RuntimeError) as error:
        print(f"bench.py loaders: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench_loaders: interrupted", file=sys.stderr)
        return 130
    finally:
        torch.set_num_threads(threads)


def run(arguments: Arguments, argv: list[str]) -> dict[str, Any]:
    """Measure and print every case; what ``--json`` holds."""
    console = Console()
    setting, of = prepare(arguments)
    rows = len(setting.table)
    facts = machine(torch.device("cpu"))
    versions = {name: release(name) for name in PACKAGES}
    facts["versions"] |= {k: v for k, v in versions.items() if v != "installed"}
    results: dict[str, Any] = {
        "command": shlex.join(["python", "tools/bench.py", "loaders", *argv]),
        "commit": commit(),
        "machine": facts,
        "setting": {
            "images": rows,
            "workers": arguments.workers,
            "batch_size": arguments.batch_size,
            "size": arguments.size,
            "interpolation": arguments.interpolation,
            "repeats": arguments.repeats,
            "seconds": arguments.seconds,
        },
        "page_cache": True,
        "images_per_second": {},
        "spread": {},
        "left_out": {},
    }
    note = [
        f"{facts['cpu']}, {facts['cores']} cores, load {facts['load']:.1f} at the start; "
        f"commit {results['commit']}",
        ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        f"{rows} of {of} images, batches of {arguments.batch_size}, {arguments.workers} threads "
        f"or processes each; ours with filter {arguments.interpolation}.",
        "All files are in the page cache: decoding is measured, not the disk.",
    ]
    console.print("\n".join(note), markup=False, highlight=False)
    for case in arguments.cases:
        one = replace(setting, views=views(case, arguments.size), complete=case == "moco-v2")
        rates, left_out = measure(one, arguments)
        results["images_per_second"][case] = {name: median(found) for name, found in rates.items()}
        results["spread"][case] = {name: [min(f), max(f)] for name, f in rates.items()}
        results["left_out"][case] = left_out
        print_case(console, case, results)
    results["ratios"] = ratios(results["images_per_second"])
    for name, ratio in results["ratios"].items():
        console.print(f"{name}: {'not measured' if ratio is None else f'{ratio:.2f}'}")
    return results


def prepare(arguments: Arguments) -> tuple[Setting, int]:
    """Open the data, as a .beton too where FFCV is installed; also how many rows it has in all."""
    whole = open_data(arguments.data, arguments.data_dir)
    size = arguments.batch_size
    Sampler(len(whole), size)  # refuses a batch that does not fit
    count = min(len(whole), arguments.images) // size * size
    chosen = np.linspace(0, len(whole), count, endpoint=False).astype(np.int64)
    table = whole.take(chosen)
    order = Sampler(len(table), size)
    beton: Table | None = None
    if is_installed("ffcv"):
        beton = cached_beton(table, arguments.data)
    is_file = beton is table
    return Setting(
        table=table,
        beton=beton,
        beton_rows=chosen if is_file else np.arange(count),
        order=order,
        views=(),
        complete=False,
        interpolation=arguments.interpolation,
        workers=arguments.workers,
    ), len(whole)


def views(case: Case, size: int) -> tuple[View, ...]:
    """The views of a case, with the published ranges of its crops."""
    if case == "moco-v2":
        return PRESETS["moco-v2"](size)
    preset = PRESETS["swav" if case == "multicrop" else "moco-v2"](size)
    plain = tuple(replace(view, **COLOUR_FREE) for view in preset)
    return plain[:1] if case == "one" else plain


def measure(
    setting: Setting, arguments: Arguments
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """images/s of every contender, taking turns; and why some take no part."""
    left_out: dict[str, str] = {}
    contenders: dict[str, Contender] = {}
    with ExitStack() as stack:
        for name in arguments.loaders:
            try:
                contenders[name] = CONTENDERS[name](setting)
                stack.callback(contenders[name].close)
            except (ImportError, MissingPackage, ValueError) as error:
                left_out[name] = str(error)
        unit = math.lcm(setting.order.steps_per_epoch, setting.workers)
        steps: dict[str, int] = {}
        for name, contender in contenders.items():  # compiles, starts workers, fills the cache
            first = images_per_second(contender, unit, setting.order.batch_size)
            wanted = arguments.seconds * first / setting.order.batch_size
            steps[name] = max(round(wanted / unit), 1) * unit
            log.info("%s: %d batches a measurement", name, steps[name])
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        for repeat in range(arguments.repeats):
            names = list(contenders) if repeat % 2 == 0 else list(reversed(contenders))
            for name in names:
                rate = images_per_second(contenders[name], steps[name], setting.order.batch_size)
                rates[name].append(rate)
    return rates, left_out


def images_per_second(contender: Contender, steps: int, batch_size: int) -> float:
    """Source images per second over ``steps`` batches, in a steady state."""
    batches = contender.run(contender.warm + steps + contender.tail)
    for _ in range(contender.warm):
        next(batches)
    began = time.perf_counter()
    for _ in range(steps):
        next(batches)
    seconds = time.perf_counter() - began
    deque(batches, maxlen=0)
    return steps * batch_size / seconds


def ratios(medians: dict[str, dict[str, float]]) -> dict[str, float | None]:
    """Quotients of the medians; None where one of the two was not measured."""
    found: dict[str, float | None] = {}
    for name, (case, other) in RATIOS.items():
        rates = medians.get(case, {})
        both = "ffcv" in rates and other in rates
        found[name] = rates["ffcv"] / rates[other] if both else None
    return found


def print_case(console: Console, case: Case, results: dict[str, Any]) -> None:
    """Print a table: images/s, spread, and our ffcv loader's rate over each."""
    rates, spread = results["images_per_second"][case], results["spread"][case]
    grid = Grid(
        "loader", "images/s", "min-max", "ffcv is", title=TITLES[case], title_justify="left"
    )
    for column in grid.columns[1:]:
        column.justify = "right"
    for name, rate in rates.items():
        low, high = spread[name]
        ratio = f"{rates['ffcv'] / rate:.2f} x" if "ffcv" in rates else ""
        grid.add_row(label(name), f"{rate:,.0f}", f"{low:,.0f}-{high:,.0f}", ratio)
    console.print(grid)
    for name, why in results["left_out"][case].items():
        console.print(escape(f"left out: {name}: {why}"), highlight=False)


def label(name: str) -> str:
    """A contender's name for people: which ones are ours."""
    return f"unmix {name}" if name in ("ffcv", "dali", "memory", "decode-only") else name
