"""``python tools/bench.py augment``: what it costs to finish a view, on the host and on a GPU.

On the host: CPU time of one thread, compiled code against PyTorch; not of the clock, the least of
15 repetitions. With a GPU a second table: the time between CUDA events, Triton against PyTorch, the
median of 30 repetitions of a whole batch; the bytes that Triton's kernels move in a second; and
these bytes over the least possible. Images are smooth.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))

from pipelines.augment import triton as by_triton
from pipelines.augment.cpu import CpuAugmenter, CpuPlan
from pipelines.augment.params import ViewParams, draw_params
from pipelines.augment.reference import augment, plan
from pipelines.rng import RowRng
from pipelines.views import View

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
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


def milliseconds(work: Callable[[], object], num_rows: int, repeats: int = 15) -> float:
    """CPU time a row: the least of some repetitions, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        began = time.thread_time()
        work()
        times.append(time.thread_time() - began)
    return min(times[1:]) * 1e3 / num_rows


def smooth(num_rows: int, size: int) -> torch.Tensor:
    """Random images, (n, size, size, 3) uint8, without a pixel's noise."""
    coarse = torch.rand(num_rows, 3, size // 8, size // 8, generator=torch.manual_seed(0)) * 255
    images = F.interpolate(coarse, size=(size, size), mode="bilinear")
    return images.byte().permute(0, 2, 3, 1).contiguous()


def cases(view: View, n: int) -> Iterator[tuple[str, ViewParams]]:
    """Draws for n rows of a view: random ones, some of them fixed for all rows."""
    side = np.full(n, 300, np.int32)
    random = draw_params(view, 0, RowRng(1, 2), np.arange(n), side, side)
    for name, fixed in CASES.items():
        arrays = {k: np.full(n, v, getattr(random, k).dtype) for k, v in fixed.items()}
        yield name, replace(random, **arrays)


def host_table() -> None:
    """Print the host's finisher against PyTorch's."""
    torch.set_num_threads(1)
    host = CpuAugmenter(1)
    print("| ms a view | size | host | torch | ratio |\n|---|---|---|---|---|")
    for size, n in ((224, 32), (32, 256)):
        view, crops = View(size, blur=0.5), smooth(n, size)
        for name, drawn in cases(view, n):
            ours = milliseconds(partial(host.augment, crops, CpuPlan(view, drawn), MEAN, STD), n)
            todo = plan(view, drawn)
            theirs = milliseconds(partial(augment, crops, todo, MEAN, STD), n)
            print(f"| {name} | {size} | {ours:.3f} | {theirs:.3f} | {theirs / ours:.1f} |")


def device_milliseconds(work: Callable[[], object], repeats: int = 30) -> float:
    """The GPU's time for a call: the median of some repetitions, after five that do not count."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 6)]
    events[0].record()
    for event in events[1:]:
        work()
        event.record()
    torch.cuda.synchronize()
    return median(a.elapsed_time(b) for a, b in pairwise(events[5:]))


def device_table(device: torch.device) -> None:
    """Print Triton's finisher against PyTorch's."""
    print(f"\n{torch.cuda.get_device_name(device)}\n")
    print("| µs a view | size | triton | torch | ratio | GB/s | bytes / least |")
    print("|---|---|---|---|---|---|---|")
    for size, n in ((224, 256), (32, 1024)):
        view, crops = View(size, blur=0.5), smooth(n, size).to(device)
        for name, drawn in cases(view, n):
            fused = by_triton.plan(view, drawn).to(device)
            todo = plan(view, drawn).to(device)
            ours = device_milliseconds(partial(by_triton.augment, crops, fused, MEAN, STD))
            theirs = device_milliseconds(partial(augment, crops, todo, MEAN, STD))
            moved, least = by_triton.traffic(view, drawn)
            print(
                f"| {name} | {size} | {1e3 * ours / n:.3f} | {1e3 * theirs / n:.3f} "
                f"| {theirs / ours:.1f} | {moved / ours / 1e6:.0f} | {moved / least:.2f} |"
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    host_table()
    if torch.cuda.is_available():
        device_table(torch.device("cuda", torch.cuda.current_device()))
