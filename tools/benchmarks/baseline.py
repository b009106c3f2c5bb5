"""Compare our steps per second with a plain torchvision, DataLoader and PyTorch loop.

Examples:
    python tools/bench.py baseline --data cifar10 --data-dir PATH --json baseline.json
    python tools/bench.py baseline --data cifar10 --data-dir PATH --precision bf16   # on a GPU

Both train MoCo on CIFAR (Shen 2022, arXiv:2003.05438), taking turns, with the same network, batch
norm groups, batch size, precision, memory layout and device. ``tools/benchmarks/plain_loop.py``
holds the plain loop. A loader alone is measured by discarding its batches. The first steps of each
measurement do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tools.benchmarks import harness
from tools.benchmarks.plain_loop import PlainLoop
from tools.config.cli import parse
from tools.config.config import Config
from tools.distributed.launch import cores_per_process, start
from tools.engine import build
from tools.engine.data import open_data_of
from tools.engine.trainer import Learner
from tools.profiling.rates import Rates, create_learner

QUEUE, DIM, TEMPERATURE, MOMENTUM = 4096, 128, 0.1, 0.99
WHAT = {"loader": "loader alone", "end_to_end": "loader and step"}
ON_HOST = (
    "Without a GPU the network takes most of both loops' time, on the cores that the loaders need. "
    "Here the ratio of the loaders is the informative one."
)


@dataclass(frozen=True, kw_only=True)
class Arguments(harness.Timing):
    """Measure steps/s of our training loop and of a plain one, side by side."""

    data: Literal["cifar10", "cifar100"] = "cifar10"
    """Data set."""
    data_dir: Path = Path("data")
    """Folder of the published data sets."""
    backbone: str = "resnet18"
    """Any timm model; ResNets get the small-image stem."""
    batch_size: int = 512
    """Images a step, a divisor of the queue's 4096 keys."""
    groups: int = 8
    """Groups of the batch within which --bn group computes batch-norm statistics."""
    bn: Literal["group", "sync"] = "group"
    """Batch norm of both loops: within groups, with shuffled keys, or over the whole batch."""
    precision: Literal["no", "bf16"] = "no"
    """Autocast of both loops."""
    seconds: float = 5.0
    """Approximate length of a measurement, which takes at least two steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        harness.check_positive(self, "batch_size", "groups")
        if QUEUE % self.batch_size:
            raise ValueError(f"--batch-size {self.batch_size} does not divide {QUEUE}, the queue")

    def config(self) -> Config:
        """The equivalent settings of train.py."""
        names = ("data", "data_dir", "backbone", "batch_size", "groups", "bn", "precision")
        flags = {name: getattr(self, name) for name in names}
        flags |= {"method": "moco", "val_data": "none"}
        flags |= {"workers": self.workers or cores_per_process()}
        flags |= {"moco.dim": DIM, "moco.queue": QUEUE, "moco.momentum": MOMENTUM}
        flags |= {"moco.temperature": TEMPERATURE}
        return parse(
            [word for name, value in flags.items()
             for word in (f"--{name.replace('_', '-')}", str(value))]
        )  # fmt: skip


def our_rate(rates: Rates, steps: int, *, alone: bool) -> float:
    """Return source images/s of our loader alone, or of loader and step."""
    rates.steps = steps
    return rates.loader_alone() if alone else rates.end_to_end()[0]


def contenders(learner: Learner, plain: PlainLoop) -> dict[tuple[str, str], harness.Rate]:
    """Return a measurement in images/s for each pair (what, loop)."""
    rates = Rates(learner, next(learner.loader.batches(0, 1)), 1)
    theirs = partial(harness.images_per_second, plain, batch_size=learner.config.batch_size)
    return {
        ("loader", "unmix"): partial(our_rate, rates, alone=True),
        ("loader", "plain"): theirs,
        ("end_to_end", "unmix"): partial(our_rate, rates, alone=False),
        ("end_to_end", "plain"): partial(theirs, work=plain.train_on, device=plain.device),
    }


def run(arguments: Arguments, _: list[str]) -> dict[str, Any]:
    """Measure both and print the table; return the results."""
    accelerator = start(arguments.precision)
    if accelerator.num_processes > 1:
        raise ValueError("bench.py baseline compares one process: start it with plain python")
    config = arguments.config()
    results = harness.record(accelerator.device, "torchvision")
    results["timed"] = harness.timed_by_clock(accelerator.device)
    with ExitStack() as stack:
        data = open_data_of(config, accelerator)
        decoders = build.Decoders(config, accelerator, print)
        stack.callback(decoders.close)
        plain = PlainLoop(config, data, accelerator)
        stack.callback(plain.close)
        learner = create_learner(config, data, decoders, accelerator)
        both = contenders(learner, plain)
        rates = harness.take_turns(both, config.batch_size, arguments, least=2)
    names = ("backbone", "batch_size", "bn", "groups", "precision", "repeats", "seconds")
    results["setting"] = {"images": len(data.train), "workers": config.workers}
    results["setting"] |= {name: getattr(arguments, name) for name in names}
    results |= summary(rates, config.batch_size)
    show(results)
    return results


def summary(rates: dict[tuple[str, str], list[float]], batch_size: int) -> dict[str, Any]:
    """Return medians, spreads and ratios of the images/s."""
    middle: dict[str, dict[str, float]] = {what: {} for what in WHAT}
    spread: dict[str, dict[str, list[float]]] = {what: {} for what in WHAT}
    for (what, loop), value in harness.medians(rates).items():
        middle[what][loop] = value
    for (what, loop), values in harness.spreads(rates).items():
        spread[what][loop] = values
    return {
        "images_per_second": middle,
        "steps_per_second": {k: v / batch_size for k, v in middle["end_to_end"].items()},
        "spread": spread,
        "ratios": {
            "steps_per_second": middle["end_to_end"]["unmix"] / middle["end_to_end"]["plain"],
            "loader": middle["loader"]["unmix"] / middle["loader"]["plain"],
        },
    }


def show(results: dict[str, Any]) -> None:
    """Print the table and the two ratios."""
    one, ratios = results["setting"], results["ratios"]
    print(
        harness.machine_line(results),
        f"{one['backbone']}, batch {one['batch_size']}, batch norm {one['bn']}, precision "
        f"{one['precision']}, {one['workers']} workers; {results['timed']}",
        sep="\n",
    )
    rows = []
    for what, title in WHAT.items():
        times = f"{ratios['loader' if what == 'loader' else 'steps_per_second']:.2f} x"
        for loop in ("unmix", "plain"):
            rate, spread = results["images_per_second"][what][loop], results["spread"][what][loop]
            last = times if loop == "plain" else ""
            rows.append((f"{title}, {loop}", *harness.rate_cells(rate, spread), last))
    print(harness.table(("", "source images/s", "min-max", "unmix is"), rows))
    steps = results["steps_per_second"]
    print(f"steps/s: unmix {steps['unmix']:.3g}, plain {steps['plain']:.3g}")
    if results["machine"]["gpu"] is None:
        print(ON_HOST)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; return the exit status."""
    return harness.run_benchmark("baseline", Arguments, run, argv)
