"""Compare two uses of DALI: dynamic mode, as in ``--loader dali``, and external_source.

Example:
    python tools/bench.py dali --data folder:PATH --json dali.json

All cut the same two 224 windows out of the same images in the page cache, with the same number of
threads. The windows are cut by DALI in dynamic mode; by DALI in a Pipeline that external_source
feeds and that runs two batches ahead; or, on the host, by our compiled code out of DALI's memory,
as in ``--loader dali``. Decoding without crops is the upper bound. With a GPU, DALI decodes on it
(``mixed``). A measurement takes whole passes over the images; the first of each does not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.datasets import open_data
from pipelines.decoders import Crops
from pipelines.decoders.dali import DaliDecoder
from pipelines.decoders.jpeg import ends_as_jpeg, is_plain_jpeg
from pipelines.presets import PRESETS
from pipelines.rng import RowRng
from pipelines.sampler import Sampler
from pipelines.sources.table import Table
from tools.benchmarks import harness
from tools.benchmarks.windows import draw_windows
from tools.distributed.launch import cores_per_process

WINDOWS = "dynamic mode, DALI's windows"
COMPILED = "dynamic mode, our windows"
PIPELINE = "external_source, DALI's windows"
DECODE = "dynamic mode, decoding alone"
IMAGES = 512
"""Largest number of images that are used, spread over the data."""


@dataclass(frozen=True, kw_only=True)
class Arguments(harness.Timing, harness.Images):
    """Measure images/s of two uses of DALI, in turns; the images must be JPEGs."""

    seconds: float = 2.0
    """Approximate length of a measurement, which takes at least one pass over the images."""
    batch_size: int = 64
    """Images a batch."""
    size: int = 224
    """Side of both windows in pixels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        harness.check_positive(self, "batch_size", "size")


@dataclass(frozen=True)
class Setting:
    """The settings that all contenders share."""

    table: Table
    order: Sampler
    size: int
    workers: int
    device: torch.device

    def windows(self, step: int) -> tuple[NDArray[np.int64], list[Crops]]:
        """Return the rows of a step, and two windows of each."""
        rows, rng = self.order.rows(step), RowRng(self.order.seed, self.order.epoch(step))
        return rows, draw_windows(self.table, rows, PRESETS["moco-v2"](self.size), rng)[1]


class Dynamic:
    """Our decoder, which cuts the windows or, without ``crops``, only decodes."""

    warm, tail = 2, 0

    def __init__(self, setting: Setting, *, cut_on_host: bool, crops: bool = True) -> None:
        self.setting, self.crops = setting, crops
        self.decoder = DaliDecoder(
            setting.table, workers=setting.workers, device=setting.device,
            pin=setting.device.type == "cuda", cut_on_host=cut_on_host,
        )  # fmt: skip

    def run(self, steps: int) -> Iterator[list[Tensor]]:
        """Yield batches from step 0 on."""
        for step in range(steps):
            rows, crops = self.setting.windows(step)
            with self.setting.table.source.held(rows):
                views = self.decoder(rows, crops if self.crops else [])
            harness.wait(self.setting.device)
            yield views

    def close(self) -> None:
        """End the decoder's threads."""
        self.decoder.close()


class ExternalSource:
    """A Pipeline of DALI that takes bytes and windows from Python, two batches ahead."""

    warm, tail = 4, 0  # the queue is full after four batches

    def __init__(self, setting: Setting) -> None:
        self.setting, self.step = setting, 0
        from nvidia.dali import Pipeline, fn
        from nvidia.dali.types import DALIInterpType

        on_gpu = setting.device.type == "cuda"
        self.pipe: Any = Pipeline(
            batch_size=setting.order.batch_size,
            num_threads=setting.workers,
            device_id=torch.cuda.current_device() if on_gpu else None,
            prefetch_queue_depth=2,
        )
        with self.pipe:
            data, *places = fn.external_source(source=self._next, num_outputs=5)
            images = fn.decoders.image(
                data, device="mixed" if on_gpu else "cpu", adjust_orientation=False,
                jpeg_fancy_upsampling=True,
            )  # fmt: skip
            views = []
            for start, shape in zip(places[::2], places[1::2], strict=True):
                window = fn.slice(images, start=start, shape=shape, axes=[0, 1])
                size, linear = [setting.size] * 2, DALIInterpType.INTERP_LINEAR
                views.append(fn.resize(window, size=size, interp_type=linear, antialias=True))
            self.pipe.set_outputs(*views)
        self.pipe.build()

    def _next(self) -> list[Any]:
        """Return the bytes, and the start and shape of each view's windows, of the next step."""
        rows, crops = self.setting.windows(self.step)
        self.step += 1
        places = [np.ascontiguousarray(c.box[:, at : at + 2]) for c in crops for at in (0, 2)]
        return [[self.setting.table.source.encoded(row) for row in rows.tolist()], *places]

    def run(self, steps: int) -> Iterator[list[Tensor]]:
        """Yield the next batches, copied out of the pipeline's memory."""
        for _ in range(steps):
            views = [torch.from_dlpack(view.as_tensor()).clone() for view in self.pipe.run()]
            harness.wait(self.setting.device)
            yield views

    def close(self) -> None:
        """Free the pipeline's threads and memory."""
        del self.pipe


def prepare(arguments: Arguments) -> Setting:
    """Open the data and keep whole batches of plain JPEGs."""
    whole = open_data(arguments.data, arguments.data_dir)
    plain = []
    for row in np.unique(np.linspace(0, len(whole) - 1, IMAGES).astype(np.int64)).tolist():
        data, size = whole.source.encoded(row), (int(whole.height[row]), int(whole.width[row]))
        if data is not None and ends_as_jpeg(data) and is_plain_jpeg(data, *size):
            plain.append(row)
    table = whole.take(np.array(plain[: len(plain) // arguments.batch_size * arguments.batch_size]))
    order = Sampler(len(table), arguments.batch_size)
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    workers = arguments.workers or cores_per_process()
    return Setting(table, order, arguments.size, workers, device)


def measure(setting: Setting, arguments: Arguments) -> dict[str, list[float]]:
    """Return the images/s of each, taking turns."""
    size, unit = setting.order.batch_size, setting.order.steps_per_epoch
    with ExitStack() as stack:
        made: dict[str, harness.Contender] = {
            DECODE: Dynamic(setting, cut_on_host=False, crops=False),
            WINDOWS: Dynamic(setting, cut_on_host=False),
            PIPELINE: ExternalSource(setting),
        }
        if setting.device.type == "cpu":
            made[COMPILED] = Dynamic(setting, cut_on_host=True)
        rates: dict[str, harness.Rate] = {}
        for name, one in made.items():
            stack.callback(one.close)
            rates[name] = partial(harness.images_per_second, one, batch_size=size)
        return harness.take_turns(rates, size, arguments, unit=unit)


def run(arguments: Arguments, _: list[str]) -> dict[str, Any]:
    """Measure all contenders and print the table; return the results."""
    setting = prepare(arguments)
    results = harness.record(setting.device, "nvidia-dali-cuda130")
    rates = measure(setting, arguments)
    medians, names = harness.medians(rates), ("batch_size", "size", "repeats", "seconds")
    results |= {
        "setting": {"images": len(setting.table), "workers": setting.workers}
        | {name: getattr(arguments, name) for name in names},
        "page_cache": True,
        "timed": harness.timed_by_clock(setting.device),
        "images_per_second": medians,
        "spread": harness.spreads(rates),
        "dynamic_vs_external_source": medians[WINDOWS] / medians[PIPELINE],
    }
    show(results)
    return results


def show(results: dict[str, Any]) -> None:
    """Print the table."""
    one, spread = results["setting"], results["spread"]
    print(
        harness.machine_line(results),
        f"{one['images']} images in the page cache, batches of {one['batch_size']}, "
        f"{one['workers']} threads, two windows of {one['size']} px; {results['timed']}",
        sep="\n",
    )
    rates = results["images_per_second"].items()
    rows = [(name, *harness.rate_cells(rate, spread[name])) for name, rate in rates]
    print(harness.table(("DALI", "images/s", "min-max"), rows))
    print(f"dynamic mode is {results['dynamic_vs_external_source']:.2f} x external_source")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; return the exit status."""
    return harness.run_benchmark("dali", Arguments, run, argv)
