"""``python tools/bench_finishers.py``: CPU time of one thread to finish a view, host against torch.

Times are of the thread, not of the clock, the least of 15 repetitions on a batch of smooth images.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))

from pipelines.augment import View, draw
from pipelines.draws import Draws
from pipelines.finish import finish, plan
from pipelines.finish_host import HostFinisher

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


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    host = HostFinisher(1)
    print("| ms a view | size | host | torch | ratio |\n|---|---|---|---|---|")
    for size, n in ((224, 32), (32, 256)):
        view, crops, side = View(size, blur=0.5), smooth(n, size), np.full(n, 300, np.int32)
        random = draw(view, 0, Draws(1, 2), np.arange(n), side, side)
        for name, fixed in CASES.items():
            arrays = {k: np.full(n, v, getattr(random, k).dtype) for k, v in fixed.items()}
            drawn = replace(random, **arrays)
            ours = milliseconds(partial(host, crops, view, drawn, MEAN, STD), n)
            todo = plan(view, drawn)
            theirs = milliseconds(partial(finish, crops, todo, MEAN, STD), n)
            print(f"| {name} | {size} | {ours:.3f} | {theirs:.3f} | {theirs / ours:.1f} |")


if __name__ == "__main__":
    main()
