"""Measure where the time of a configuration goes, and say what bounds it.

python tools/profile_throughput.py --method moco --mix region --json profile.json --plot profile.png
accelerate launch tools/profile_throughput.py --data ~/imagenet --sweep-workers 4,8,16

Takes train.py's flags beside its own. A batch's stages are timed one by one; the loader alone, the
step alone on a synthetic batch, and both together, as in a run, in turn. Nothing is written but
what is asked for.
"""

from __future__ import annotations

if __package__ is None:  # run as a script
    import diagnostics.environment  # noqa: F401

import dataclasses
import json
import logging
import resource
import shlex
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table

from pipelines.loader import Loader
from pipelines.sources.image_file import BadImage
from tools.config.cli import parse, to_dict
from tools.config.config import Config
from tools.distributed.launch import cores_per_process, start
from tools.engine import build
from tools.engine.trainer import Learner
from tools.plots.profile import draw_profile, title
from tools.profiling.bottleneck import Bottleneck, number
from tools.profiling.clock import Seconds
from tools.profiling.io import Reads
from tools.profiling.rates import Rates, create_learner
from tools.profiling.stages import Stages
from tools.runs.machine import commit, machine

log = logging.getLogger("profile_throughput")

RATES = ("loader", "step", "end_to_end")


@dataclass(frozen=True)
class Options:
    """Measure where the time of a configuration goes.

    All of train.py's flags are taken too: python train.py --help lists them.
    """

    json: Annotated[Path | None, tyro.conf.arg(metavar="OUT")] = None
    """Write the numbers here."""
    plot: Annotated[Path | None, tyro.conf.arg(metavar="OUT.png")] = None
    """Draw them here."""
    trace: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Write a few steps as DIR/trace.json, for Perfetto or chrome://tracing."""
    sweep_workers: Annotated[str | None, tyro.conf.arg(metavar="N,N,...")] = None
    """Measure the loader alone with each of these numbers of workers, as 1,2,4."""
    steps: int = 8
    """Steps of each measurement of a rate; two more before them are left out."""
    repeats: int = 3
    """Measurements of each number; the median is told, and the lowest and highest."""

    def __post_init__(self) -> None:
        for name in ("steps", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, not {getattr(self, name)}")
        _ = self.workers
        for folder in (path.parent for path in (self.json, self.plot) if path):
            if not folder.is_dir():
                raise ValueError(f"{folder} is not a folder")

    @property
    def workers(self) -> list[int]:
        """The numbers of workers to try.

        Raises:
            ValueError: they are not numbers above 0.
        """
        words = self.sweep_workers.split(",") if self.sweep_workers is not None else []
        if not all(word.strip().isdecimal() and int(word) for word in words):
            raise ValueError(
                f"--sweep-workers {self.sweep_workers}: give numbers above 0, as in 1,2,4"
            )
        return [int(word) for word in words]


def main(argv: Sequence[str] | None = None) -> int:
    """Profile what the flags describe; return the exit status."""
    logging.basicConfig(format="%(message)s")
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        options, rest = tyro.cli(Options, args=words, return_unknown_args=True)
        config = parse(rest)
        accelerator = start(config.precision)
        command = shlex.join(["python", "tools/profile_throughput.py", *words])
        result = profile(options, config, accelerator) | {"command": command, "commit": commit()}
        if accelerator.is_main_process:
            write(result, options)
    except (ValueError, OSError, BadImage) as error:
        print(f"profile_throughput.py: {error}", file=sys.stderr)
        return 2
    return 0


def write(result: dict[str, Any], options: Options) -> None:
    """Print the result, and write what was asked for."""
    show(result, Console())
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    if options.plot:
        draw_profile(result, options.plot)


def profile(options: Options, config: Config, accelerator: Accelerator) -> dict[str, Any]:
    """Measure everything; return what the JSON holds, but for command and commit."""
    if accelerator.is_main_process:
        log.setLevel(logging.INFO)
    with ExitStack() as stack:
        data = build.open_data_of(dataclasses.replace(config, val_data="none"), accelerator)
        decoders = build.Decoders(config, accelerator, log.info)
        stack.callback(decoders.close)
        learner = create_learner(config, data, decoders, accelerator)
        config = learner.config
        log.info("stages ...")
        stages = Stages(learner.loader, options.repeats)
        seconds = stages.measure()
        rates = Rates(learner, stages.batch, options.steps)
        rounds, waits = measure_rates(rates, options.repeats, seconds)
        sweep = []
        for workers in options.workers:
            log.info("loader alone, %d workers ...", workers)
            loader = loader_with(workers, learner, data, stack)
            found = [rates.loader_alone(loader) for _ in range(options.repeats)]
            sweep.append({"workers": workers} | middle_and_spread(found))
        if options.trace:
            rates.trace(options.trace / "trace.json")
    return summary(config, learner.loader, stages, seconds, rounds, waits, accelerator) | {
        "sweep_workers": sweep,
        "steps": options.steps,
        "repeats": options.repeats,
    }


def loader_with(workers: int, learner: Learner, data: build.Data, stack: ExitStack) -> Loader:
    """Return the learner's loader with another number of workers."""
    config = dataclasses.replace(learner.config, workers=workers)
    decoders = build.Decoders(config, learner.accelerator, log.debug)
    stack.callback(decoders.close)
    return build.training_loader(config, data, decoders, learner.method, learner.accelerator)


def measure_rates(
    rates: Rates, repeats: int, seconds: dict[str, Seconds]
) -> tuple[dict[str, list[float]], list[float]]:
    """Return the three rates, taken in turn, and the waits; add the step's parts to ``seconds``."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    found: dict[str, list[float]] = {name: [] for name in RATES}
    waits = []
    for turn in range(repeats):
        log.info("loader alone, step alone, end to end: %d of %d ...", turn + 1, repeats)
        found["loader"].append(rates.loader_alone())
        step, parts = rates.step_alone()
        found["step"].append(step)
        for name, values in parts.items():
            seconds.setdefault(name, []).extend(values)
        end_to_end, wait = rates.end_to_end()
        found["end_to_end"].append(end_to_end)
        waits.append(wait)
    return found, waits


def middle_and_spread(values: list[float]) -> dict[str, Any]:
    """Return the median rate with its lowest and highest value."""
    return {"images_per_second": statistics.median(values), "spread": [min(values), max(values)]}


def summary(
    config: Config,
    loader: Loader,
    stages: Stages,
    seconds: dict[str, Seconds],
    rounds: dict[str, list[float]],
    waits: list[float],
    accelerator: Accelerator,
) -> dict[str, Any]:
    """Return medians, spreads, the verdict, and what they depend on."""
    rates = {f"{name}_images_per_second": values for name, values in rounds.items()}
    ceiling = [config.batch_size / value for value in seconds.get("decode", [])]
    if ceiling:
        rates["decode_ceiling_images_per_second"] = ceiling
    middle = {name: statistics.median(v) for name, v in seconds.items()}
    medians = {name: statistics.median(v) for name, v in rates.items()}
    on_gpu = accelerator.device.type == "cuda"
    workers = config.workers or cores_per_process()
    verdict = Bottleneck(
        **{name: medians[f"{name}_images_per_second"] for name in RATES},
        stages=middle,
        shared=stages.decoded_on_gpu or not on_gpu,
        on_gpu=on_gpu,
        workers=workers,
        batch_size=config.batch_size,
    )
    every = {**seconds, **rates, "data_wait": waits}
    return {
        **{"decode_ceiling_images_per_second": None, **medians},
        "data_wait": statistics.median(waits),
        "bottleneck": verdict.sentence(),
        "stages": middle,
        "spread": {name: [min(values), max(values)] for name, values in every.items()},
        "expected_images_per_second": verdict.expected,
        "expected_law": verdict.law,
        "rows": len(stages.tap.rows),
        "workers": workers,
        "processes": accelerator.num_processes,
        "read_cold_bytes_per_second": cold_rate(stages.reads),
        "finisher_bytes": finisher_bytes(stages.finisher_bytes(), middle["finish"]),
        "peak_host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "peak_device_bytes": torch.cuda.max_memory_allocated() if on_gpu else 0,
        "machine": machine(accelerator.device),
        "config": to_dict(config),
    }


def cold_rate(reads: Reads | None) -> float | None:
    """Return the bytes/s of cold reads; None if there are no reads, or none that were cold."""
    return reads.bytes_per_second if reads and reads.was_cold else None


def finisher_bytes(counted: tuple[int, int] | None, seconds: float) -> dict[str, float] | None:
    """Return what the finisher moves, the least possible, their ratio, and bytes/s."""
    if counted is None:
        return None
    moved, least = counted
    rate = moved / seconds
    return {"moved": moved, "least": least, "ratio": moved / least, "bytes_per_second": rate}


def traffic(result: dict[str, Any]) -> list[str]:
    """Return what is told of bytes: read off the disk, and moved by the finisher."""
    lines = []
    if "read" in result["stages"]:
        rate = result["read_cold_bytes_per_second"]
        what = "not measurable here: the system keeps what it is told to forget"
        lines = [f"read off the disk: {what if rate is None else f'{rate / 1e6:,.0f} MB/s'}"]
    moved = result["finisher_bytes"]
    if moved:
        lines.append(
            f"the finisher moves {moved['moved'] / 1e6:,.1f} MB a step, {moved['ratio']:.2f} times "
            f"the least possible, at {moved['bytes_per_second'] / 1e9:,.0f} GB/s"
        )
    return lines


def show(result: dict[str, Any], console: Console) -> None:
    """Print the tables and the verdict."""
    spread = result["spread"]
    stages = Table(title=f"stages, {result['rows']} images a step", title_justify="left")
    for name in ("stage", "ms a step", "min-max", "us an image"):
        stages.add_column(name, justify="left" if name == "stage" else "right")
    for name, value in result["stages"].items():
        low, high = (1000 * v for v in spread[name])
        each = 1e6 * value / result["rows"]
        stages.add_row(
            title(name), f"{1000 * value:,.2f}", f"{low:,.2f}-{high:,.2f}", f"{each:,.1f}"
        )
    rates = Table(title="source images/s, all processes", title_justify="left")
    for name in ("rate", "images/s", "min-max"):
        rates.add_column(name, justify="left" if name == "rate" else "right")
    for name in ("decode_ceiling", *RATES):
        key = f"{name}_images_per_second"
        if result[key] is not None:
            low, high = spread[key]
            rates.add_row(
                name.replace("_", " "), number(result[key]), f"{number(low)}-{number(high)}"
            )
    for point in result["sweep_workers"]:
        low, high = point["spread"]
        rates.add_row(
            f"loader, {point['workers']} workers", number(point["images_per_second"]),
            f"{number(low)}-{number(high)}",
        )  # fmt: skip
    console.print(stages, rates)
    console.print(
        f"waiting for data {result['data_wait']:.1%}; peak memory: host "
        f"{result['peak_host_bytes'] / 2**30:.2f} GiB, device "
        f"{result['peak_device_bytes'] / 2**30:.2f} GiB",
        *traffic(result),
        result["bottleneck"],
        sep="\n",
        highlight=False,
        markup=False,
    )


if __name__ == "__main__":
    sys.exit(main())
