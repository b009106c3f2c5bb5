"""Compare our loaders with stock FFCV, torchvision and lightly on one set of images.

Examples:
    python tools/bench.py loaders --data folder:PATH --json loaders.json
    python tools/bench.py loaders --data train.beton --cases two --interpolation bilinear
    python tools/bench.py loaders --data folder:PATH --opponents FOLDER

All take turns on the same images, ours and most others in the same order;
``tools/benchmarks/contenders.py`` describes each contender. SPDL, torchcodec, LitData and MosaicML
streaming run in processes of their own, with the packages of requirements-bench.txt in a folder:

    python -m uv pip install --target FOLDER --no-deps --require-hashes -r requirements-bench.txt

A measurement is the time between two
batches that are a whole number of passes over the images apart, after the queues have settled. Each
contender's first measurement, which compiles, does not count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro

from pipelines.beton.convert import cached_beton
from pipelines.datasets import open_data
from pipelines.decoders import MissingPackage
from pipelines.presets import PRESETS
from pipelines.sampler import Sampler
from pipelines.settings import Interpolation
from pipelines.sources.table import Table
from pipelines.views import View
from tools.benchmarks import harness
from tools.benchmarks.contenders import COLOUR_FREE, CONTENDERS
from tools.benchmarks.opponents import NAMES as OPPONENTS
from tools.benchmarks.opponents import versions
from tools.benchmarks.setting import Setting
from tools.diagnostics.checks import is_installed
from tools.distributed.launch import cores_per_process

Case = Literal["one", "two", "moco-v2", "multicrop"]
TITLES: dict[Case, str] = {
    "one": "one view: crop, flip",
    "two": "two views: crop, flip",
    "moco-v2": "two views: complete MoCo v2, normalised float32",
    "multicrop": "SwAV, two large and six small views: crop, flip",
}
BEST = "the fastest opponent"
RATIOS: dict[str, tuple[Case, str]] = {
    "two_views_vs_stock_ffcv": ("two", "stock-ffcv"),
    "two_views_vs_decode_ceiling": ("two", "decode-only"),
    "multicrop_vs_stock_ffcv": ("multicrop", "stock-ffcv"),
    "moco_v2_vs_torchvision": ("moco-v2", "torchvision"),
    "two_views_vs_spdl": ("two", "spdl"),
    "multicrop_vs_spdl": ("multicrop", "spdl"),
    "moco_v2_vs_best_opponent": ("moco-v2", BEST),
}
"""Our ffcv loader's images/s in a case, divided by another's."""
PACKAGES = ("torchvision", "numpy", "numba", "pillow", "ffcv", "nvidia-dali-cuda130", "lightly")
MEASURED = ("images_per_second", "spread", "cpu_ms_an_image", "left_out")
OURS = ("ffcv", "dali", "memory", "decode-only")


@dataclass(frozen=True, kw_only=True)
class Arguments(harness.Timing, harness.Images):
    """Measure images/s of our loaders and of others, in turns."""

    cases: tuple[Case, ...] = ("one", "two", "moco-v2", "multicrop")
    """Views and augmentations to measure."""
    loaders: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--loader"])] = tuple(CONTENDERS)
    """Loaders to measure."""
    opponents: Path | None = None
    """Folder with the packages of requirements-bench.txt; without it their loaders are left out."""
    interpolation: Interpolation = "antialias"
    """Interpolation of our loaders. Stock FFCV has only area, and PIL always antialiases."""
    batch_size: int = 64
    """Images a batch."""
    images: int = 512
    """Largest number of images, spread over the data; a whole number of batches is used."""
    size: int = 224
    """Side of a view in pixels; small multi-crop views have 96/224 of it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        harness.check_positive(self, "batch_size", "size")
        if self.images < self.batch_size:
            raise ValueError(f"--images {self.images} must hold a batch of {self.batch_size}")
        if unknown := set(self.loaders) - set(CONTENDERS):
            raise ValueError(f"--loaders {' '.join(unknown)}: choose from {' '.join(CONTENDERS)}")
        if self.opponents is not None and not versions(self.opponents):
            raise ValueError(f"--opponents {self.opponents}: no package of requirements-bench.txt")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every case; return the exit status."""
    threads = torch.get_num_threads()
    try:
        return harness.run_benchmark("loaders", Arguments, run, argv)
    finally:
        torch.set_num_threads(threads)


def run(arguments: Arguments, _: list[str]) -> dict[str, Any]:
    """Measure and print every case; return the results."""
    arguments = replace(arguments, workers=arguments.workers or cores_per_process())
    torch.set_num_threads(arguments.workers)
    setting, num_rows = prepare(arguments)
    results: dict[str, Any] = harness.record(torch.device("cpu"), *PACKAGES)
    names = ("workers", "batch_size", "size", "interpolation", "repeats", "seconds")
    results["setting"] = {"images": len(setting.table)}
    results["setting"] |= {name: getattr(arguments, name) for name in names}
    if arguments.opponents is not None:
        results["opponents_versions"] = versions(arguments.opponents)
    measured: dict[str, Any] = {key: {} for key in MEASURED}
    results |= {"page_cache": True, **measured}
    print(
        harness.machine_line(results),
        ", ".join(f"{name} {text}" for name, text in results["machine"]["versions"].items()),
        f"{len(setting.table)} of {num_rows} images, batches of {arguments.batch_size}, "
        f"{arguments.workers} threads or processes each; ours with filter "
        f"{arguments.interpolation}.",
        "All files are in the page cache: decoding is measured, not the disk; timed: host.",
        sep="\n",
    )
    for case in arguments.cases:
        one = replace(setting, views=views(case, arguments.size), complete=case == "moco-v2")
        rates, cpu, results["left_out"][case] = measure(one, arguments)
        results["cpu_ms_an_image"][case] = harness.medians(cpu)
        results["images_per_second"][case] = harness.medians(rates)
        results["spread"][case] = harness.spreads(rates)
        print_case(case, results)
    results["ratios"] = ratios(results["images_per_second"])
    for name, ratio in results["ratios"].items():
        print(f"{name}: {'not measured' if ratio is None else f'{ratio:.2f}'}")
    return results


def prepare(arguments: Arguments) -> tuple[Setting, int]:
    """Open the data, also as a .beton if FFCV is installed; return the total number of rows too."""
    whole = open_data(arguments.data, arguments.data_dir)
    size = arguments.batch_size
    Sampler(len(whole), size)  # refuses a batch that does not fit
    count = min(len(whole), arguments.images) // size * size
    chosen = np.linspace(0, len(whole), count, endpoint=False).astype(np.int64)
    table = whole.take(chosen)
    beton: Table | None = cached_beton(table, arguments.data) if is_installed("ffcv") else None
    setting = Setting(
        table=table,
        beton=beton,
        beton_rows=chosen if beton is table else np.arange(count),
        order=Sampler(len(table), size),
        views=(),
        complete=False,
        interpolation=arguments.interpolation,
        workers=arguments.workers,
        opponents=arguments.opponents,
    )
    return setting, len(whole)


def views(case: Case, size: int) -> tuple[View, ...]:
    """Return the views of a case, with the published ranges of its crops."""
    if case == "moco-v2":
        return PRESETS["moco-v2"](size)
    preset = PRESETS["swav" if case == "multicrop" else "moco-v2"](size)
    plain = tuple(replace(view, **COLOUR_FREE) for view in preset)
    return plain[:1] if case == "one" else plain


Values = dict[str, list[float]]


def measure(setting: Setting, arguments: Arguments) -> tuple[Values, Values, dict[str, str]]:
    """Return images/s and CPU ms an image of every contender, and why others were left out."""
    left_out: dict[str, str] = {}
    rates: dict[str, harness.Rate] = {}
    cpu: Values = {}
    size = setting.order.batch_size
    with ExitStack() as stack:
        for name in arguments.loaders:
            try:
                contender = CONTENDERS[name](setting)
            except (ImportError, MissingPackage, ValueError) as error:
                left_out[name] = str(error)
                continue
            stack.callback(contender.close)
            cpu[name] = []
            rates[name] = partial(
                harness.images_per_second, contender, batch_size=size, cpu=cpu[name]
            )
        unit = math.lcm(setting.order.steps_per_epoch, setting.workers)
        measured = harness.take_turns(rates, size, arguments, unit=unit)
    # As of the rates, the first measurement does not count.
    return measured, {name: values[1:] for name, values in cpu.items()}, left_out


def ratios(medians: dict[str, dict[str, float]]) -> dict[str, float | None]:
    """Return ratios of the medians, or None if one of the two was not measured."""
    found: dict[str, float | None] = {}
    for name, (case, other) in RATIOS.items():
        rates = medians.get(case, {})
        others = [rates[one] for one in (OPPONENTS if other == BEST else (other,)) if one in rates]
        found[name] = rates["ffcv"] / max(others) if "ffcv" in rates and others else None
    return found


def print_case(case: Case, results: dict[str, Any]) -> None:
    """Print a table: images/s, spread, CPU, and our ffcv loader's throughput over each."""
    rates, spread, cpu = (results[key][case] for key in MEASURED[:3])
    rows = [
        (
            f"unmix {name}" if name in OURS else name,
            *harness.rate_cells(rate, spread[name]),
            f"{cpu[name]:.2f}",
            f"{rates['ffcv'] / rate:.2f} x" if "ffcv" in rates else "",
        )
        for name, rate in rates.items()
    ]
    print(f"\n{TITLES[case]}")
    print(harness.table(("loader", "images/s", "min-max", "CPU ms an image", "ffcv is"), rows))
    for name, why in results["left_out"][case].items():
        print(f"left out: {name}: {why}")
