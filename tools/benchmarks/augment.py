"""``python tools/bench.py augment``: the cost of augmenting a view, on the host and on a GPU.

The host's table compares compiled code with PyTorch by the CPU time of one thread, not by the
clock; the least of 15 repetitions counts. With a GPU a second table compares Triton with PyTorch by
the time between CUDA events, the median of 30 repetitions of a whole batch, replayed from a CUDA
graph so that kernels are timed and not their launches; the last column says which it was. It also
gives the bytes that Triton's kernels move in a second, and these bytes over the least possible.
Images are smooth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from pipelines.augment import triton as by_triton
from pipelines.augment.cpu import CpuAugmenter, CpuPlan
from pipelines.augment.params import ViewParams, draw_params
from pipelines.augment.reference import augment, plan
from pipelines.rng import RowRng
from pipelines.views import View
from tools.benchmarks import harness

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HOST_REPEATS = 15
CAPTURED = 10
"""Calls in a CUDA graph."""
OFF = {"flip": False, "jitter": False, "gray": False, "sigma": 0.0, "solarize": False}
CASES: dict[str, dict[str, Any]] = {
    "normalise": OFF,
    "flip": {**OFF, "flip": True},
    "gray": {**OFF, "gray": True},
    "jitter": {**OFF, "jitter": True},
    "blur, sigma 1": {**OFF, "sigma": 1.0},
    "blur, sigma 2": {**OFF, "sigma": 2.0},
    "jitter and blur, sigma 1": {**OFF, "jitter": True, "sigma": 1.0},
    "moco-v2's draws": {},
}


def smooth(num_rows: int, size: int) -> torch.Tensor:
    """Return random images, (n, size, size, 3) uint8, without noise between neighboring pixels."""
    coarse = (
        torch.rand(num_rows, 3, size // 8, size // 8, generator=torch.Generator().manual_seed(0))
        * 255
    )
    images = F.interpolate(coarse, size=(size, size), mode="bilinear")
    return images.byte().permute(0, 2, 3, 1).contiguous()


def cases(view: View, n: int) -> Iterator[tuple[str, ViewParams]]:
    """Yield cases: random parameters for n rows of a view, some fixed for all rows."""
    side = np.full(n, 300, np.int32)
    random = draw_params(view, 0, RowRng(1, 2), np.arange(n), side, side)
    for name, fixed in CASES.items():
        arrays = {k: np.full(n, v, getattr(random, k).dtype) for k, v in fixed.items()}
        yield name, replace(random, **arrays)


def host_rows() -> Iterator[dict[str, Any]]:
    """Measure the host's augmentation against PyTorch's."""
    torch.set_num_threads(1)
    host = CpuAugmenter(1)
    for size, n in ((224, 32), (32, 256)):
        view, crops = View(size, blur=0.5), smooth(n, size)
        for name, drawn in cases(view, n):
            ours = partial(host.augment, crops, CpuPlan(view, drawn), MEAN, STD)
            theirs = partial(augment, crops, plan(view, drawn), MEAN, STD)
            time = partial(harness.cpu_milliseconds, num_rows=n, repeats=HOST_REPEATS)
            yield {"case": name, "size": size, "host": time(ours), "torch": time(theirs)}


def device_milliseconds(work: Callable[[], object], repeats: int = 30) -> tuple[float, str]:
    """Return the GPU time of a call and what it is of: ``kernels``, or ``launches``.

    The median of some repetitions, after five of warm-up. Small kernels run faster than the host
    launches them, so ``CAPTURED`` calls are captured in a CUDA graph and replayed. Work that cannot
    be captured is timed as it is launched.
    """
    for _ in range(2):
        work()  # compiles; a capture may not
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    timed, calls, what = graph.replay, CAPTURED, "kernels"
    try:
        with torch.cuda.graph(graph):
            for _ in range(CAPTURED):
                work()
    except RuntimeError:  # it waits for the device, or copies from memory that is not pinned
        timed, calls, what = work, 1, "launches"  # type: ignore[assignment]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 6)]
    events[0].record()
    for event in events[1:]:
        timed()
        event.record()
    torch.cuda.synchronize()
    return median(a.elapsed_time(b) for a, b in pairwise(events[5:])) / calls, what


def device_rows(device: torch.device) -> Iterator[dict[str, Any]]:
    """Measure Triton's augmentation against PyTorch's."""
    for size, n in ((224, 256), (32, 1024)):
        view, crops = View(size, blur=0.5), smooth(n, size).to(device)
        for name, drawn in cases(view, n):
            fused = by_triton.plan(view, drawn).to(device)
            todo = plan(view, drawn).to(device)
            ours, timed = device_milliseconds(partial(by_triton.augment, crops, fused, MEAN, STD))
            theirs, reference = device_milliseconds(partial(augment, crops, todo, MEAN, STD))
            moved, least = by_triton.traffic(view, drawn)
            yield {
                "case": name,
                "size": size,
                "triton": ours / n,
                "torch": theirs / n,
                "gigabytes_per_second": moved / ours / 1e6,
                "bytes_over_least": moved / least,
                "timed": timed if timed == reference else f"{timed}, {reference}",
            }


def run(_: harness.Options, __: list[str]) -> dict[str, Any]:
    """Measure, print the tables, and return the results in milliseconds a view."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    results: dict[str, Any] = harness.record(device)
    results["host"] = list(host_rows())
    columns: tuple[str, ...] = ("ms a view", "size", "host", "torch", "ratio", "timed")
    print(harness.table(columns, [(*cells(row, "host"), "host") for row in results["host"]]))
    if on_gpu:
        results["device"] = list(device_rows(device))
        print(f"\n{torch.cuda.get_device_name(device)}\n")
        columns = ("µs a view", "size", "triton", "torch", "ratio")
        rows = [
            (*cells(row, "triton", 1000), f"{row['gigabytes_per_second']:.0f}",
             f"{row['bytes_over_least']:.2f}", row["timed"])
            for row in results["device"]
        ]  # fmt: skip
        print(harness.table((*columns, "GB/s", "bytes / least", "timed"), rows))
    return results


def cells(row: dict[str, Any], ours: str, unit: float = 1) -> tuple[str, ...]:
    """Return a row's case and times in milliseconds, times ``unit``, as text."""
    times = [f"{unit * row[name]:.3f}" for name in (ours, "torch")]
    return row["case"], str(row["size"]), *times, f"{row['torch'] / row[ours]:.1f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; return the exit status."""
    return harness.run_benchmark("augment", harness.Options, run, argv)
