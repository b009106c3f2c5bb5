"""What decoding less than the whole image could save: python tools/bench.py decode --data PATH.

libffcv decodes at 1/1 to 1/8 of the size. At 1/8 hardly more than the entropy coding is left, which
has to be read whatever the windows need. CPU milliseconds of one thread an image, least of some
repetitions, in the page cache.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import tyro
from numpy.typing import NDArray

from pipelines.augment.params import draw_params
from pipelines.beton.convert import cached_beton
from pipelines.datasets import open_data
from pipelines.decoders import Crops, MissingPackage
from pipelines.decoders.crop_plan import cut_image, make_plan
from pipelines.decoders.ffcv import Codec
from pipelines.presets import PRESETS
from pipelines.rng import RowRng
from pipelines.sources.beton import Beton
from pipelines.sources.image_file import decode_with_pil
from pipelines.sources.source import Source
from pipelines.sources.table import Table

SCALES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Arguments:
    """Measure what the parts of a JPEG cost."""

    data: str
    """folder:PATH or PATH.beton"""
    images: int = 256
    """At most so many JPEGs, spread over the data."""
    repeats: int = 5
    """Repetitions, of which the least counts."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit status."""
    arguments = tyro.cli(Arguments, args=argv)
    try:
        table = cached_beton(open_data(arguments.data, Path("data"), "train"), arguments.data)
        print(report(table, arguments))
    except (ValueError, OSError, MissingPackage) as error:
        print(f"bench.py decode: {error}", file=sys.stderr)
        return 1
    return 0


def report(table: Table, arguments: Arguments) -> str:
    """Return the measurements as a Markdown table.

    Raises:
        ValueError: the data holds no JPEGs.
    """
    assert isinstance(table.source, Beton)
    jpegs = np.flatnonzero(table.source.jpg)
    if len(jpegs) == 0:
        raise ValueError(f"{arguments.data} holds no JPEGs")
    rows = jpegs[:: -(-len(jpegs) // arguments.images)]
    scaled = {
        scale: milliseconds(partial(decode_all, table.source, rows, scale), arguments, rows)
        for scale in SCALES
    }
    windows = two_views(table, rows)
    cutting = milliseconds(cutter(table, rows, windows), arguments, rows)
    needed = needed_rows(table, rows, windows)
    whole = scaled[1]
    least = scaled[8] + needed * (whole - scaled[8])
    lines = ["| CPU ms an image | |", "|---|---|"]
    lines += [f"| decode at 1/{scale} | {value:.3f} |" for scale, value in scaled.items()]
    lines += [
        f"| cut two 224 windows | {cutting:.3f} |",
        f"| entropy coding's share of decoding (1/8 against 1/1) | {scaled[8] / whole:.0%} |",
        f"| scanlines that the windows need | {needed:.0%} |",
        f"| two views against decode only, decoding all | {whole / (whole + cutting):.2f} |",
        f"| at most, decoding only those scanlines | {whole / (least + cutting):.2f} |",
    ]
    return "\n".join(lines)


def milliseconds(
    work: Callable[[], object], arguments: Arguments, rows: NDArray[np.int64]
) -> float:
    """CPU time an image: the least of some repetitions, after one that does not count."""
    times = []
    for _ in range(arguments.repeats + 1):
        began = time.thread_time()
        work()
        times.append(time.thread_time() - began)
    return min(times[1:]) * 1e3 / len(rows)


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


def two_views(table: Table, rows: NDArray[np.int64]) -> list[Crops]:
    """The windows of MoCo v2's two views."""
    height, width = table.height[rows], table.width[rows]
    views, take = PRESETS["moco-v2"](224), np.arange(len(rows))
    boxes = [
        draw_params(view, i, RowRng(0, 0), rows, height, width).box for i, view in enumerate(views)
    ]
    return [Crops(224, take, box) for box in boxes]


def cutter(table: Table, rows: NDArray[np.int64], windows: list[Crops]) -> Callable[[], None]:
    """Return what cuts the windows out of one decoded image after the other."""
    plan = make_plan(table, rows, windows)
    images = [decode_with_pil(encoded(table.source, row).data, "") for row in plan.rows.tolist()]

    def cut() -> None:
        for i, image in enumerate(images):
            cut_image(plan, i, image, "antialias")

    return cut


def needed_rows(table: Table, rows: NDArray[np.int64], windows: list[Crops]) -> float:
    """The share of scanlines between the first and the last that a window needs."""
    top = np.minimum.reduce([view.box[:, 0] for view in windows])
    bottom = np.maximum.reduce([view.box[:, 0] + view.box[:, 2] for view in windows])
    return float(((bottom - top) / table.height[rows]).mean())
