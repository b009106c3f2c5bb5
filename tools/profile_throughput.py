"""Profile the throughput of a configuration, and name its bottleneck.

Examples:
    python tools/profile_throughput.py --method moco --mix region --plot profile.png
    accelerate launch tools/profile_throughput.py --data ~/imagenet --sweep-workers 4,8,16

Takes train.py's flags as well. The stages of a batch are timed one by one. Then the loader alone,
the step alone on a synthetic batch, and both together, as in a run, are measured in turn. Only the
files that the flags name are written.

The column "timed" says what a stage's time is of: "host" is the host's clock; "launches" is the
time between CUDA events, which is that of the launches where the kernels are shorter.
"""

from __future__ import annotations

if __package__ is None:  # run as a script
    from diagnostics import environment

    environment.check()

import json
import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from pipelines.system.atomic import replacing
from tools.config.cli import parse
from tools.distributed.launch import start
from tools.plots.profile import draw_profile, title
from tools.profiling.bottleneck import number
from tools.profiling.measure import RATES, profile
from tools.runs.command import command


@dataclass(frozen=True)
class Options:
    """Profile the throughput of a configuration, and name its bottleneck.

    Takes all of train.py's flags as well: python train.py --help lists them.
    """

    json: Annotated[Path | None, tyro.conf.arg(metavar="OUT")] = None
    """Write the results to this JSON file."""
    plot: Annotated[Path | None, tyro.conf.arg(metavar="OUT.png")] = None
    """Draw the results into this picture."""
    trace: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Write a trace of a few steps to DIR/trace.json, for Perfetto or chrome://tracing."""
    sweep_workers: Annotated[str | None, tyro.conf.arg(metavar="N,N,...")] = None
    """Measure the loader alone with each of these numbers of workers, such as 1,2,4."""
    steps: int = 8
    """Steps in each measurement of throughput, after two steps of warm-up."""
    repeats: int = 3
    """Number of measurements of each value; median, lowest and highest are printed."""

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
        """The numbers of workers of --sweep-workers.

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
    """Profile the configuration of the flags; return the exit status."""
    logging.basicConfig(format="%(message)s")
    words = list(sys.argv[1:] if argv is None else argv)
    return command("tools/profile_throughput.py", lambda: run(words))


def run(words: list[str]) -> None:
    """Profile, print the result, and write the files that the flags name."""
    options, rest = tyro.cli(Options, args=words, description=__doc__, return_unknown_args=True)
    config = parse(rest)
    accelerator = start(config.precision)
    result = profile(
        config,
        accelerator,
        steps=options.steps,
        repeats=options.repeats,
        workers=options.workers,
        trace=options.trace / "trace.json" if options.trace else None,
    )
    if not accelerator.is_main_process:
        return
    show(result, Console())
    if options.json:
        result["command"] = shlex.join(["python", "tools/profile_throughput.py", *words])
        with replacing(options.json) as temporary:
            temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if options.plot:
        draw_profile(result, options.plot)


def traffic(result: dict[str, Any]) -> list[str]:
    """Return lines on the bytes fetched, read off the disk and moved by the augmentation."""
    lines = []
    if fetch := result.get("fetch"):
        lines.append(
            f"fetched from the store: {fetch['images_per_second']:,.0f} images/s, "
            f"{fetch['bytes_per_second'] / 1e6:,.0f} MB/s, {fetch['requests_per_image']:.2f} "
            f"requests an image, {fetch['over_read']:.2f} times the bytes of the images"
        )
    if "read" in result["stages"]:
        rate = result["read_cold_bytes_per_second"]
        what = "not measurable here: the system does not drop its page cache on request"
        lines.append(f"read off the disk: {what if rate is None else f'{rate / 1e6:,.0f} MB/s'}")
    moved = result["finisher_bytes"]
    if moved:
        lines.append(
            f"the augmentation moves {moved['moved'] / 1e6:,.1f} MB a step, {moved['ratio']:.2f} "
            f"times the least possible, at {moved['bytes_per_second'] / 1e9:,.0f} GB/s"
        )
    return lines


def show(result: dict[str, Any], console: Console) -> None:
    """Print the tables and the bottleneck."""
    spread = result["spread"]
    stages = Table(title=f"stages, {result['rows']} images a step", title_justify="left")
    for name in ("stage", "ms a step", "min-max", "us an image", "timed"):
        stages.add_column(name, justify="left" if name in ("stage", "timed") else "right")
    for name, value in result["stages"].items():
        low, high = (1000 * v for v in spread[name])
        each = 1e6 * value / result["rows"]
        stages.add_row(
            title(name), f"{1000 * value:,.2f}", f"{low:,.2f}-{high:,.2f}", f"{each:,.1f}",
            result["timed"][name],
        )  # fmt: skip
    rates = Table(
        title="source images/s, all processes, by the host's clock, launches included",
        title_justify="left",
    )
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
