"""Measure how much a mixture adds to a step's time, and compare it with the added encoder work.

Examples:
    python tools/bench.py mixture --backbone resnet18 --image-size 32 --json mixture.json
    python tools/bench.py mixture --only swav --data ~/imagenet --batch-size 64

Takes train.py's flags as well. The step is measured alone, on a synthetic batch, with and without
the mixture in turn, and the encoders' work in it is counted. A unit is the forward pass of one
large view of each image: an encoder takes 1 unit without gradient and 3 with it (the backward pass
costs two), and a smaller view takes its share of the pixels.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from statistics import median
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn

from models.methods import METHODS, Method
from pipelines.batch import Batch
from tools.benchmarks import harness
from tools.config.cli import parse, to_dict
from tools.config.config import Config
from tools.distributed.launch import start
from tools.engine import build
from tools.engine.data import Data, open_data_of
from tools.engine.trainer import Learner
from tools.profiling.clock import Clock
from tools.profiling.rates import WARMUP, create_learner, synthetic

log = logging.getLogger(__name__)

GOAL = 1.05
"""Largest accepted ratio of the measured to the counted cost of a mixture."""
COUNTED = ("encoder_calls", "images_an_image", "images_with_gradient", "units")
"""Counts of a step, without and with the mixture; images are those for each of the batch's."""


@dataclass(frozen=True, kw_only=True)
class Options(harness.Options):
    """Measure how much a mixture adds to each method's step.

    All of train.py's flags but --method are taken too: python train.py --help lists them.
    """

    only: tuple[str, ...] = ()
    """Methods to measure (none: all)."""
    steps: int = 2
    """Steps in each measurement."""
    repeats: int = 5
    """Number of measurements with and without the mixture; median, lowest and highest are
    printed."""

    def __post_init__(self) -> None:
        harness.check_positive(self, "steps", "repeats")
        if unknown := set(self.only) - set(METHODS):
            raise ValueError(f"--only {' '.join(unknown)}: choose from {' '.join(METHODS)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every method; return the exit status."""
    return harness.run_benchmark("mixture", Options, run, argv, train_flags=True)


def run(options: Options, flags: list[str]) -> dict[str, Any] | None:
    """Measure every method and print the table; return the results in the main process."""
    cases = list(variants(flags, options.only or tuple(METHODS)))
    config = cases[0][1]
    accelerator = start(config.precision)
    results = harness.record(accelerator.device)
    data = open_data_of(dataclasses.replace(config, val_data="none"), accelerator)
    rows = [measure(name, c, data, options, accelerator) for name, c in cases]
    if not accelerator.is_main_process:
        return None
    show(rows)
    timed = Clock(accelerator.device).timed
    print(f"timed: {timed}")
    return {"methods": rows, "timed": timed} | results


def variants(words: Sequence[str], names: Sequence[str]) -> Iterator[tuple[str, Config]]:
    """Yield each method with its settings, with and without a symmetric loss where both exist."""
    for name in names:
        config = parse([*without_others(name, words), "--method", name])
        if config.mix == "none":
            config = dataclasses.replace(config, mix="region")
        if not hasattr(config.chosen, "symmetric"):
            yield name, config
            continue
        for label, symmetric in (("one-way", False), ("symmetric", True)):
            chosen: Any = dataclasses.replace(config.chosen, symmetric=symmetric)
            yield f"{name} {label}", dataclasses.replace(config, **{name.replace("-", "_"): chosen})


def without_others(name: str, words: Sequence[str]) -> list[str]:
    """Return the flags without the settings of methods other than ``name``."""
    kept, keep = [], True
    for word in words:
        if word.startswith("--"):
            owner, dot, _ = word[2:].partition(".")
            keep = not dot or owner == name or owner not in METHODS
        if keep:
            kept.append(word)
    return kept


def measure(
    name: str, config: Config, data: Data, options: Options, accelerator: Accelerator
) -> dict[str, Any]:
    """Return a method's counts and times, or the reason why it was left out."""
    log.info("%s ...", name)
    gc.collect()  # the last method's memory
    with ExitStack() as stack:
        decoders = build.Decoders(config, accelerator, log.debug)
        stack.callback(decoders.close)
        try:
            learner = create_learner(config, data, decoders, accelerator)
        except ValueError as refused:
            return {"method": name, "skipped": str(refused)}
        batch = synthetic(learner.loader, next(learner.loader.batches(0, 1)))
        clean = dataclasses.replace(batch, mixed=())
        counts = [
            count(learner.method, partial(seconds, learner, given, 1)) for given in (clean, batch)
        ]
        rounds = alternate(learner, clean, batch, options)
        clock = Clock(accelerator.device)
        mixing = clock.seconds(lambda: learner.loader.maker.mix(batch.views, 0), options.repeats)
    large = batch.views[0]
    return {"method": name, "config": to_dict(learner.config)} | price(
        counts, len(large) * pixels(large), len(large), rounds, mixing
    )


@dataclass
class Count:
    """A forward hook that adds up the inputs of encoders."""

    calls: int = 0
    images: int = 0
    with_gradient: int = 0
    work: int = 0
    """Pixels of the forward passes; those with gradient count three times."""

    def __call__(self, encoder: nn.Module, inputs: tuple[Tensor, ...], features: Tensor) -> None:
        """Add a call."""
        images, learns = inputs[0], features.requires_grad
        self.calls += 1
        self.images += len(images)
        self.with_gradient += len(images) * learns
        self.work += len(images) * pixels(images) * (3 if learns else 1)


def pixels(images: Tensor) -> int:
    """Return the number of pixels of one image of a batch."""
    return images.shape[-2] * images.shape[-1]


def count(method: Method, step: Callable[[], object]) -> Count:
    """Count the inputs of the method's encoders while ``step`` runs."""
    counted = Count()
    hooks = [encoder.register_forward_hook(counted) for encoder in method.encoders()]
    try:
        step()
    finally:
        for hook in hooks:
            hook.remove()
    return counted


def seconds(learner: Learner, batch: Batch, steps: int) -> float:
    """Return the mean seconds of ``steps`` steps on the same batch."""
    clock = Clock(learner.accelerator.device)
    clock.wait()
    begin = clock.mark()
    for _ in range(steps):
        learner.train_on(batch)
    end = clock.mark()
    clock.wait()
    learner.metrics.read()
    return clock.between(begin, end) / steps


def alternate(
    learner: Learner, clean: Batch, mixed: Batch, options: Options
) -> list[tuple[float, float]]:
    """Return the seconds of a step without and with the mixture, in turn."""
    for batch in (clean, mixed):
        seconds(learner, batch, WARMUP)
    found: dict[str, list[float]] = {"clean": [], "mixed": []}
    for name in harness.rounds(list(found), options.repeats):
        batch = clean if name == "clean" else mixed
        found[name].append(seconds(learner, batch, options.steps))
    return list(zip(found["clean"], found["mixed"], strict=True))


def price(
    counts: Sequence[Count],
    unit: int,
    num_rows: int,
    rounds: Sequence[tuple[float, float]],
    mixing: Sequence[float],
) -> dict[str, Any]:
    """Return the JSON of a method; counts and rounds are (without, with) the mixture.

    ``unit`` is the pixels of the large views of a batch of ``num_rows``.
    """
    units = [Fraction(c.work, unit) for c in counts]
    ratios = [mixed / clean for clean, mixed in rounds]
    counted, measured = units[1] / units[0], median(ratios)
    return {
        "encoder_calls": [c.calls for c in counts],
        "images_an_image": [c.images / num_rows for c in counts],
        "images_with_gradient": [c.with_gradient / num_rows for c in counts],
        "units": [float(u) for u in units],
        "counted": float(counted),
        "measured": measured,
        "spread": [min(ratios), max(ratios)],
        "over_counted": measured / counted,
        "step_seconds": [median(times) for times in zip(*rounds, strict=True)],
        "mixing_seconds": median(mixing),
    }


COLUMNS = (
    *("method", "encoder calls", "images an image", "with gradient", "units", "counted"),
    *("measured (min-max)", "/ counted", "step, ms", "mixing, ms"),
)


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table in Markdown, and the methods that were left out."""
    cells = []
    for row in rows:
        if "skipped" not in row:
            low, high = row["spread"]
            cells.append((
                row["method"],
                *(f"{a:g} -> {b:g}" for a, b in (row[key] for key in COUNTED)),
                f"{row['counted']:.3f}",
                f"{row['measured']:.3f} ({low:.3f}-{high:.3f})",
                f"{row['over_counted']:.3f}{'' if row['over_counted'] <= GOAL else ' (!)'}",
                " -> ".join(f"{1000 * s:,.1f}" for s in row["step_seconds"]),
                f"{1000 * row['mixing_seconds']:.2f}",
            ))  # fmt: skip
    print(harness.table(COLUMNS, cells))
    print(f"Without -> with the mixture. (!): more than {GOAL} times what is counted.")
    for row in rows:
        if "skipped" in row:
            print(f"{row['method']} left out: {row['skipped']}")
