"""What one process of a spawned group runs for test_launch.py, and what is compared."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate.state import PartialState
from runs import CASES, SMALL, TINY, run_train

import train
from models.methods import Method
from pipelines.batch import Batch
from tools.run import pictures, setup

STEPS = 3
RESUMED = ("moco", "unmix")
"""The case that goes on with another number of processes."""


def flags(toy: Path, output: Path, method: str, *more: str) -> tuple[str, ...]:
    """The flags of a small run called ``run`` below ``output``."""
    where = ("--data", f"folder:{toy}", "--output", str(output), "--name", "run")
    return ("--method", method, *TINY, *SMALL[method], "--precision", "no", *where, *more)


def case_flags(toy: Path, output: Path, case: tuple[str, str], steps: int) -> tuple[str, ...]:
    """The flags of a case of the table."""
    method, mix = case
    folder = output / "-".join(case)
    return flags(toy, folder, method, "--mix", mix, "--limit-steps", str(steps))


def in_double(batch: Batch) -> Batch:
    """The batch in float64."""
    mixed = tuple(replace(m, image=m.image.double(), lam=m.lam.double()) for m in batch.mixed)
    return replace(batch, views=tuple(view.double() for view in batch.views), mixed=mixed)


def recorded_rows(*argv: str, double: bool = False) -> list[tuple[int, list[int]]]:
    """Train, in float64 if asked; return each step's number and this process's rows.

    In float32 a rounding error that turns one ReLU's sign moves gradients by a percent.
    """
    seen = []
    step, create = train.Run.train_on, setup.create_method

    def train_on(run: train.Run, batch: Batch) -> None:
        seen.append((batch.step, batch.index.tolist()))
        step(run, in_double(batch) if double else batch)

    def create_method(*args: Any, **options: Any) -> Method:
        method = create(*args, **options)
        return method.double() if double else method

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.Run, "train_on", train_on)
        patch.setattr(setup, "create_method", create_method)
        for name in ("draw_views", "draw_curves"):  # they take longer than the steps
            patch.setattr(pictures, name, lambda *_, **__: None)
        assert run_train(*argv) == 0
    return seen


def worker(rank: int, world: int, toy: Path, output: Path) -> None:
    """One of ``world`` gloo processes: the whole table, then a resume of one process's run."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    dist.init_process_group("gloo", f"file://{output}/store", rank=rank, world_size=world)
    with pytest.MonkeyPatch.context() as patch:
        # a run ends the group it trained in; here the next run needs it
        patch.setattr(PartialState, "destroy_process_group", lambda *_: None)
        rows = {
            "-".join(case): recorded_rows(
                *case_flags(toy, output / "many", case, STEPS), double=True
            )
            for case in CASES
        }
        resumed = case_flags(toy, output / "resumed", RESUMED, STEPS)
        rows["resumed"] = recorded_rows(*resumed, "--resume", "auto")
    torch.save(rows, output / f"rows-{rank}.pt")
    dist.destroy_process_group()
