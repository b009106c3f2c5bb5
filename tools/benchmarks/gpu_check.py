"""The parts of ``tools/gpu_check.sh`` that no other command measures.

    python -m tools.benchmarks.gpu_check versions OUT.json
    python -m tools.benchmarks.gpu_check images FOLDER OUT.json
    python -m tools.benchmarks.gpu_check resume FOLDER OUT.json FLAGS OF train.py
    python -m tools.benchmarks.gpu_check ddp OUT.json FLAGS OF train.py

Each writes one JSON file. Only ``versions`` works where packages of unmix are missing: it names
them.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tools.diagnostics.environment import NEEDED

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {32: 2048, 224: 512}
"""Number of synthetic images for each side in pixels."""
CLASSES = 4
STEPS = 6
"""Steps of the run that ``resume`` stops in the middle, and of the one in DDP."""
CLOSE = 0.02
"""Largest relative difference of losses after a resume: device kernels may add in any order."""


def versions() -> dict[str, Any]:
    """Return the versions, the device, and which packages and fast paths there are."""
    from pipelines.augment import triton

    packages = ("torch", "triton", "torchvision", "timm", "accelerate", "numpy", "numba")
    on_gpu = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "missing": [name for name in NEEDED if find_spec(name) is None],
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "gpu": torch.cuda.get_device_name() if on_gpu else None,
        "capability": list(torch.cuda.get_device_capability()) if on_gpu else None,
        "cores": len(os.sched_getaffinity(0)),
        "fused_finisher_usable": triton.usable(),
    }


def version(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def images(folder: Path) -> dict[str, Any]:
    """Write folders of smooth JPEGs of ``FOLDERS``, a class of its own colour each, if missing."""
    rng = np.random.default_rng(0)
    for side, number in FOLDERS.items():
        for i in range(number):
            path = folder / str(side) / "train" / f"class{i % CLASSES}" / f"{i:05}.jpg"
            coarse = rng.integers(0, 160, (side // 8, side // 8, 3))
            coarse[..., i % 3] += 90 - 30 * (i % CLASSES == 3)
            if path.is_file():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(coarse.astype(np.uint8))
            picture.resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)
    return {"folders": {str(side): str(folder / str(side)) for side in FOLDERS}, "images": FOLDERS}


def resume(folder: Path, flags: Sequence[str]) -> dict[str, Any]:
    """Train in one go, and with a stop in the middle; return both runs' losses and their gap.

    What ``folder`` held before is removed.

    Raises:
        RuntimeError: a run failed, or the losses differ by more than ``CLOSE``.
    """
    shutil.rmtree(folder, ignore_errors=True)
    common = (*flags, "--output", str(folder), "--loader", "memory", "--log-every", "1")
    common = (*common, "--knn-every", "0", "--val-data", "none", "--log-with", "tensorboard")
    for name, more in (
        ("straight", ("--limit-steps", str(STEPS))),
        ("stopped", ("--limit-steps", str(STEPS // 2))),
        ("stopped", ("--resume", "auto", "--limit-steps", str(STEPS))),
    ):
        words = [sys.executable, str(ROOT / "train.py"), *common, "--no-report", "--name", name]
        done = subprocess.run([*words, *more], cwd=ROOT)
        if done.returncode:
            raise RuntimeError(f"train.py ended with status {done.returncode}: see above")
    straight, stopped = (losses(folder / name) for name in ("straight", "stopped"))
    gap = max(abs(a - b) / abs(a) for a, b in zip(straight, stopped, strict=True))
    if gap > CLOSE:
        raise RuntimeError(f"after the resume losses differ by {gap:.1%}: {straight}, {stopped}")
    return {"straight": straight, "stopped": stopped, "largest_relative_difference": gap}


def losses(run: Path) -> list[float]:
    """Return the losses of a run's log lines."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line["loss"] for line in lines if line["step"]]


def ddp(flags: Sequence[str]) -> dict[str, Any]:
    """Train for some steps as the only process of a group, wrapped in DDP; return the losses.

    The group is NCCL's on a GPU and gloo's on the host. Accelerate wraps no single process in DDP.
    """
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from tools.config.cli import parse
    from tools.distributed.launch import start
    from tools.engine import build
    from tools.engine.data import open_data_of
    from tools.profiling.rates import create_learner

    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29531", "RANK": "0", "WORLD_SIZE": "1"}
    os.environ.update(where | {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"})
    config = parse([*flags, "--loader", "memory", "--val-data", "none"])
    accelerator = start(config.precision)
    backend = "nccl" if accelerator.device.type == "cuda" else "gloo"
    if not dist.is_initialized():
        dist.init_process_group(backend, rank=0, world_size=1)
    data = open_data_of(config, accelerator)
    decoders = build.Decoders(config, accelerator)
    learner = create_learner(config, data, decoders, accelerator)
    learner.model = DistributedDataParallel(learner.method, gradient_as_bucket_view=True)
    found = []
    for batch in learner.loader.batches(0, STEPS // 2):
        learner.train_on(batch)
        found.append(learner.metrics.last()["loss"])
    decoders.close()
    dist.destroy_process_group()
    if not np.isfinite(found).all():
        raise RuntimeError(f"the losses {found} are not finite")
    return {"backend": backend, "losses": found}


def main(words: Sequence[str]) -> int:
    """Run the part that the first word names, and write its JSON file; return the exit status."""
    part, *rest = words
    folder = Path(rest.pop(0)) if part in ("images", "resume") else Path()
    out, flags = Path(rest[0]), rest[1:]
    found = {
        "versions": versions,
        "images": lambda: images(folder),
        "resume": lambda: resume(folder, flags),
        "ddp": lambda: ddp(flags),
    }[part]()
    text = json.dumps(found, indent=1)
    out.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
