"""Compare our steps per second with a plain torchvision, DataLoader and PyTorch loop.

python tools/bench.py baseline --data cifar10 --data-dir PATH --json baseline.json
python tools/bench.py baseline --data cifar10 --data-dir PATH --precision bf16   # on a GPU

Both train MoCo on CIFAR (Shen 2022, arXiv:2003.05438): the same network, made by the same code,
its groups of batch norm included, the same batch, precision, memory layout and device, taking
turns. ``tools/benchmarks/plain_loop.py`` holds the plain one. A loader alone is measured with its
batches thrown away. The first steps of each measurement do not count.
"""

from __future__ import annotations

import json
import logging
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table as Grid

from models.methods.moco import MocoConfig
from pipelines.sources.image_file import BadImage
from tools.benchmarks.plain_loop import PlainLoop
from tools.config.config import Config
from tools.diagnostics.checks import release
from tools.distributed.launch import check_workers, cores_per_process, start
from tools.engine import build
from tools.engine.trainer import Learner
from tools.profiling.rates import Rates, create_learner
from tools.runs.machine import commit, machine

log = logging.getLogger("bench_baseline")

QUEUE, DIM, TEMPERATURE, MOMENTUM = 4096, 128, 0.1, 0.99
WHAT = {"loader": "loader alone", "end_to_end": "loader and step"}
ON_HOST = (
    "Without a GPU the network takes most of both loops' time, on the cores that the loaders need: "
    "the loaders' ratio is the telling one here."
)


@dataclass(frozen=True)
class Arguments:
    """Measure steps/s of our training loop and of a plain one, side by side."""

    data: Literal["cifar10", "cifar100"] = "cifar10"
    """The images."""
    data_dir: Path = Path("data")
    """Where their published files lie."""
    json: Path | None = None
    """Write the results to this file as well."""
    backbone: str = "resnet18"
    """Any timm model; ResNets get the small-image stem."""
    batch_size: int = 512
    """Images per step; the queue's 4096 keys must be whole batches."""
    groups: int = 8
    """Groups of the batch inside which batch norm counts, with --bn group."""
    bn: Literal["group", "sync"] = "group"
    """Batch norm of both loops: split, with shuffled keys, or plain over the whole batch."""
    precision: Literal["no", "bf16"] = "no"
    """Autocast of both loops."""
    workers: int = 0
    """Our threads, and the DataLoader's processes; 0: one for each core."""
    seconds: float = 5.0
    """About how long a measurement takes; at least two steps."""
    repeats: int = 5
    """Measurements of each, of which the median counts."""

    def __post_init__(self) -> None:
        if min(self.repeats, self.batch_size, self.groups) < 1 or self.seconds <= 0:
            raise ValueError("--repeats, --batch-size, --groups and --seconds must be positive")
        if QUEUE % self.batch_size:
            raise ValueError(f"--batch-size {self.batch_size} does not divide {QUEUE}, the queue")
        check_workers(self.workers)

    def config(self) -> Config:
        """The same as settings of train.py."""
        numbers: dict[str, Any] = {"moco": MocoConfig(DIM, QUEUE, MOMENTUM, TEMPERATURE)}
        return Config(
            method="moco", data=self.data, data_dir=self.data_dir, val_data="none",
            backbone=self.backbone, batch_size=self.batch_size, groups=self.groups, bn=self.bn,
            precision=self.precision, workers=self.workers or cores_per_process(), **numbers,
        )  # fmt: skip


def our_rate(rates: Rates, steps: int, *, alone: bool) -> float:
    """Source images/s of our loader alone, or of loader and step."""
    rates.steps = steps
    return rates.loader_alone() if alone else rates.end_to_end()[0]


def contenders(learner: Learner, plain: PlainLoop) -> dict[tuple[str, str], Callable[[int], float]]:
    """(what, whose) -> a measurement over so many steps, in images/s."""
    rates = Rates(learner, next(learner.loader.batches(0, 1)), 1)
    return {
        ("loader", "unmix"): partial(our_rate, rates, alone=True),
        ("loader", "plain"): partial(plain.images_per_second, work=None),
        ("end_to_end", "unmix"): partial(our_rate, rates, alone=False),
        ("end_to_end", "plain"): partial(plain.images_per_second, work=plain.train_on),
    }


def measure(
    found: dict[tuple[str, str], Callable[[int], float]], batch_size: int, arguments: Arguments
) -> dict[tuple[str, str], list[float]]:
    """Take turns, forwards and backwards; a first measurement of each sets its number of steps."""
    steps = {}
    for key, rate in found.items():
        steps[key] = max(round(arguments.seconds * rate(2) / batch_size), 2)
        log.info("%s, %s: %d steps a measurement", key[1], WHAT[key[0]], steps[key])
    rates: dict[tuple[str, str], list[float]] = {key: [] for key in found}
    for repeat in range(arguments.repeats):
        keys = list(found) if repeat % 2 == 0 else list(reversed(found))
        for key in keys:
            rates[key].append(found[key](steps[key]))
    return rates


def run(arguments: Arguments, argv: list[str]) -> dict[str, Any]:
    """Measure both; what ``--json`` holds."""
    accelerator = start(arguments.precision)
    if accelerator.num_processes > 1:
        raise ValueError("bench_baseline compares one process: start it with plain python")
    config = arguments.config()
    facts = machine(accelerator.device)
    facts["versions"]["torchvision"] = release("torchvision")
    with ExitStack() as stack:
        data = build.open_data_of(config, accelerator)
        decoders = build.Decoders(config, accelerator, log.info)
        stack.callback(decoders.close)
        plain = PlainLoop(config, data, accelerator)
        stack.callback(plain.close)
        learner = create_learner(config, data, decoders, accelerator)
        rates = measure(contenders(learner, plain), config.batch_size, arguments)
    return {
        "command": shlex.join(["python", "tools/bench.py", "baseline", *argv]),
        "commit": commit(),
        "machine": facts,
        "setting": {
            "images": len(data.train),
            "backbone": config.backbone,
            "batch_size": config.batch_size,
            "bn": arguments.bn,
            "groups": arguments.groups,
            "precision": arguments.precision,
            "workers": config.workers,
            "repeats": arguments.repeats,
            "seconds": arguments.seconds,
        },
        **summary(rates, config.batch_size),
    }


def summary(rates: dict[tuple[str, str], list[float]], batch_size: int) -> dict[str, Any]:
    """Medians, spreads and ratios of ``measure``'s images/s."""
    middle: dict[str, dict[str, float]] = {what: {} for what in WHAT}
    spread: dict[str, dict[str, list[float]]] = {what: {} for what in WHAT}
    for (what, whose), values in rates.items():
        middle[what][whose] = statistics.median(values)
        spread[what][whose] = [min(values), max(values)]
    return {
        "images_per_second": middle,
        "steps_per_second": {k: v / batch_size for k, v in middle["end_to_end"].items()},
        "spread": spread,
        "ratios": {
            "steps_per_second": middle["end_to_end"]["unmix"] / middle["end_to_end"]["plain"],
            "loader": middle["loader"]["unmix"] / middle["loader"]["plain"],
        },
    }


def show(results: dict[str, Any], console: Console) -> None:
    """Print the table and the two ratios."""
    one, facts = results["setting"], results["machine"]
    where = f"{facts['gpu']}, " if facts["gpu"] else ""
    console.print(
        f"{where}{facts['cpu']}, {facts['cores']} cores, load {facts['load']:.1f} at the start; "
        f"commit {results['commit']}\n{one['backbone']}, batch {one['batch_size']}, batch norm "
        f"{one['bn']}, precision {one['precision']}, {one['workers']} workers",
        markup=False,
        highlight=False,
    )
    grid = Grid("", "source images/s", "min-max", "unmix is")
    for column in grid.columns[1:]:
        column.justify = "right"
    for what, title in WHAT.items():
        ratio = results["ratios"]["loader" if what == "loader" else "steps_per_second"]
        for whose in ("unmix", "plain"):
            low, high = results["spread"][what][whose]
            rate = results["images_per_second"][what][whose]
            times = f"{ratio:.2f} x" if whose == "plain" else ""
            grid.add_row(f"{title}, {whose}", f"{rate:,.0f}", f"{low:,.0f}-{high:,.0f}", times)
    steps = results["steps_per_second"]
    console.print(grid)
    console.print(
        f"steps/s: unmix {steps['unmix']:.3g}, plain {steps['plain']:.3g}", highlight=False
    )
    if facts["gpu"] is None:
        console.print(ON_HOST)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = tyro.cli(Arguments, args=words)
        results = run(arguments, words)
        show(results, Console())
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    except (ValueError, OSError, RuntimeError, BadImage) as error:
        print(f"bench.py baseline: {error}", file=sys.stderr)
        return 1
    return 0
