"""Memory and file descriptors do not grow over a run of 2,000 steps, for each loader.

``python tests/faults/growth.py memory ffcv dali`` prints them.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from attempts import finish, start
from launch_cases import flags
from torch import nn
from toy_cases import toy_images

STEPS = 2000
SETTLED = 500
"""By then caches are full and all threads have met each other."""
LOADERS = ("memory", "ffcv", "dali")
MOST_BYTES = 1500
"""A step: 2 MB in the steps measured; a leaked batch of views would be 98 kB."""


def watch(file: Path) -> None:
    """Arrange for a network of two layers, and for noting what the process holds every 25 steps."""
    from tools.engine import build, trainer

    class Encoder(nn.Sequential):
        num_features = 8

        def __init__(self, *_: Any, **__: Any) -> None:
            super().__init__(nn.Conv2d(3, 8, 3, 4), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1))
            self.append(nn.Flatten())

    build.create_backbone = Encoder
    step, process = trainer.Learner.train_on, psutil.Process()

    def train_on(run: Any, batch: Any) -> None:
        step(run, batch)
        if batch.step % 25 == 0:
            held = process.memory_info().rss, process.num_fds(), threading.active_count()
            with file.open("a") as out:
                print(batch.step, *held, file=out)

    trainer.Learner.train_on = train_on


def slopes(loader: str, toy: Path, where: Path) -> dict[str, float]:
    """Bytes, descriptors and threads that a step adds, by least squares after ``SETTLED``."""
    small = ("--loader", loader, "--log-every", "100", "--val-data", "none", "--epochs", "2000")
    more = (*small, "--checkpoint-every", "500", "--limit-steps", str(STEPS))
    argv = flags(toy, where, "simclr", "--mix", "unmix", *more)
    assert finish(start(argv, where / "rows", watch, where / "held")) == 0, (
        where / "rows.txt"
    ).read_text()
    table = np.loadtxt(where / "held")
    table = table[table[:, 0] >= SETTLED]
    names = ("bytes", "descriptors", "threads")
    return {n: float(np.polyfit(table[:, 0], table[:, i], 1)[0]) for i, n in enumerate(names, 1)}


@pytest.mark.parametrize("loader", LOADERS)
def test_nothing_grows(toy: Path, tmp_path: Path, loader: str) -> None:
    if loader != "memory":
        pytest.importorskip({"ffcv": "ffcv", "dali": "nvidia.dali"}[loader])
    slope = slopes(loader, toy, tmp_path)
    print(loader, slope)
    assert slope["bytes"] < MOST_BYTES
    assert abs(slope["descriptors"]) < 1 / 500 and abs(slope["threads"]) < 1 / 500


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or LOADERS:
        with tempfile.TemporaryDirectory() as folder:
            toy_images(Path(folder), "train", 40)
            found = slopes(name, Path(folder), Path(folder))
            print(name, *(f"{value:+.4f} {what} a step" for what, value in found.items()))
