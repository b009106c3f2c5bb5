"""Estimate the gain of decoding only a part of an image: python tools/bench.py decode --data PATH.

libffcv decodes at 1/1 to 1/8 of the size. At 1/8 little but the entropy coding is left, which has
to be decoded for any window. Times are CPU milliseconds an image of one thread, the least of some
repetitions, with the images in the page cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.beton.convert import cached_beton
from pipelines.datasets import open_data
from pipelines.decoders import Crops
from pipelines.decoders.crop_plan import cut_image, make_plan
from pipelines.decoders.ffcv import Codec
from pipelines.presets import PRESETS
from pipelines.rng import RowRng
from pipelines.sources.beton import Beton
from pipelines.sources.image_file import decode_with_pil
from pipelines.sources.source import Source
from pipelines.sources.table import Table
from tools.benchmarks import harness
from tools.benchmarks.windows import draw_windows

SCALES = (1, 2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class Arguments(harness.Images):
    """Measure the cost of the parts of decoding a JPEG."""

    images: int = 256
    """Largest number of JPEGs, spread over the data."""
    repeats: int = 5
    """Number of repetitions; the least counts."""

    def __post_init__(self) -> None:
        harness.check_positive(self, "images", "repeats")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit status."""
    return harness.run_benchmark("decode", Arguments, run, argv)


def run(arguments: Arguments, _: list[str]) -> dict[str, Any]:
    """Measure and print a Markdown table; return the results."""
    results = harness.record(torch.device("cpu"), "ffcv")
    whole = open_data(arguments.data, arguments.data_dir)
    results["milliseconds"], shares = measure(cached_beton(whole, arguments.data), arguments)
    results["shares"] = {name: value for name, (value, _) in shares.items()}
    rows = [(name, f"{value:.3f}") for name, value in results["milliseconds"].items()]
    rows += [(name, format(value, form)) for name, (value, form) in shares.items()]
    print(harness.table(("CPU ms an image", ""), rows))
    return results


def measure(
    table: Table, arguments: Arguments
) -> tuple[dict[str, float], dict[str, tuple[float, str]]]:
    """Return CPU milliseconds an image, and numbers derived from them, each with its format.

    Raises:
        ValueError: the data holds no JPEGs.
    """
    assert isinstance(table.source, Beton)
    jpegs = np.flatnonzero(table.source.jpg)
    if len(jpegs) == 0:
        raise ValueError(f"--data {arguments.data} holds no JPEGs")
    rows = jpegs[:: -(-len(jpegs) // arguments.images)]
    time = partial(harness.cpu_milliseconds, num_rows=len(rows), repeats=arguments.repeats)
    scaled = {scale: time(partial(decode_all, table.source, rows, scale)) for scale in SCALES}
    windows = draw_windows(table, rows, PRESETS["moco-v2"](224), RowRng(0, 0))[1]
    cutting = time(cutter(table, rows, windows))
    needed = needed_rows(table, rows, windows)
    whole, entropy = scaled[1], scaled[8]
    least = entropy + needed * (whole - entropy)
    times = {f"decode at 1/{scale}": value for scale, value in scaled.items()}
    return times | {"cut two 224 windows": cutting}, {
        "entropy coding's share of decoding (1/8 against 1/1)": (entropy / whole, ".0%"),
        "scanlines that the windows need": (needed, ".0%"),
        "two views against decode only, decoding all": (whole / (whole + cutting), ".2f"),
        "at most, decoding only those scanlines": (whole / (least + cutting), ".2f"),
    }


def decode_all(source: Beton, rows: NDArray[np.int64], scale: int) -> None:
    """Decode the rows at 1/``scale`` of their size."""
    codec = Codec().function
    pixels = int((source.height[rows].astype(np.int64) * source.width[rows]).max())
    scratch = np.empty(3 * pixels, np.uint8)
    for row in rows.tolist():
        data = encoded(source, row)
        height, width = int(source.height[row]), int(source.width[row])
        codec(
            data.ctypes.data, len(data), height, width, scratch.ctypes.data, height, width,
            0, 0, 1, scale, 0, 0,
        )  # fmt: skip


def encoded(source: Source, row: int) -> NDArray[np.uint8]:
    """Return the bytes of a row that is a JPEG."""
    data = source.encoded(row)
    assert data is not None
    return data


def cutter(table: Table, rows: NDArray[np.int64], windows: list[Crops]) -> Callable[[], None]:
    """Return a function that cuts the windows out of the decoded images, one after the other."""
    plan = make_plan(table, rows, windows)
    images = [decode_with_pil(encoded(table.source, row).data, "") for row in plan.rows.tolist()]

    def cut() -> None:
        for i, image in enumerate(images):
            cut_image(plan, i, image, "antialias")

    return cut


def needed_rows(table: Table, rows: NDArray[np.int64], windows: list[Crops]) -> float:
    """Return the share of scanlines between the first and the last that a window needs."""
    top = np.minimum.reduce([view.box[:, 0] for view in windows])
    bottom = np.maximum.reduce([view.box[:, 0] + view.box[:, 2] for view in windows])
    return float(((bottom - top) / table.height[rows]).mean())
