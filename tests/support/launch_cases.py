"""The work of one process of a spawned group for test_launch.py, and the values compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import PartialState
from runs import SMALL, TINY, lines, run_train, skip_pictures

from models.methods import Method
from pipelines.batch import Batch
from tools.engine import build, trainer

STEPS = 3
FEW = [
    *(("moco", "unmix"), ("byol", "none"), ("swav", "unmix")),
    *(("wmse", "unmix"), ("insdis", "none"), ("dino", "none")),
]
"""A case for each kind of state; tests/faults/scale.py trains all."""
RESUMED = ("moco", "unmix")
"""The case that goes on with another number of processes."""


def flags(toy: Path, output: Path, method: str, *more: str) -> tuple[str, ...]:
    """The flags of a small run called ``run`` below ``output``."""
    where = ("--data", f"folder:{toy}", "--output", str(output), "--name", "run")
    return ("--method", method, *TINY, *SMALL[method], "--precision", "no", *where, *more)


def case_flags(toy: Path, output: Path, case: tuple[str, str], steps: int) -> tuple[str, ...]:
    """The flags of a case of the table; its processes must hold the same after each step."""
    method, mix = case
    folder = output / "-".join(case)
    more = ("--mix", mix, "--limit-steps", str(steps), "--check-ranks", "1")
    return flags(toy, folder, method, *more)


def in_double(batch: Batch) -> Batch:
    """The batch in float64."""
    mixed = tuple(replace(m, image=m.image.double(), lam=m.lam.double()) for m in batch.mixed)
    return replace(batch, views=tuple(view.double() for view in batch.views), mixed=mixed)


def recorded_rows(*argv: str, double: bool = False) -> list[tuple[int, list[int]]]:
    """Train, in float64 if asked; return each step's number and this process's rows.

    In float32 a rounding error that turns one ReLU's sign moves gradients by a percent.
    """
    seen = []
    step, create = trainer.Run.train_on, build.create_method

    def train_on(run: trainer.Run, batch: Batch) -> None:
        seen.append((batch.step, batch.index.tolist()))
        step(run, in_double(batch) if double else batch)

    def create_method(*args: Any, **options: Any) -> Method:
        method = create(*args, **options)
        return method.double() if double else method

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Run, "train_on", train_on)
        patch.setattr(build, "create_method", create_method)
        skip_pictures(patch)
        # a run ends the group it trained in; a test goes on with it
        patch.setattr(PartialState, "destroy_process_group", lambda *_: None)
        assert run_train(*argv) == 0
    return seen


def work(toy: Path, output: Path, cases: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """What one process of a group does: train each case; return its rows."""
    return {
        "-".join(case): recorded_rows(*case_flags(toy, output, case, STEPS), double=True)
        for case in cases
    }


def resume(toy: Path, output: Path) -> dict[str, Any]:
    """What one process of a group does: one more step of another number's run."""
    flags = case_flags(toy, output, RESUMED, STEPS)
    return {"rows": recorded_rows(*flags, "--resume", "auto")}


def assert_law_4(
    toy: Path, many: Path, one: Path, ranks: Sequence[dict[str, Any]], case: tuple[str, str]
) -> None:
    """Train a case in this process, in float64 (the record keeps single precision), and compare."""
    name = "-".join(case)
    rows = recorded_rows(*case_flags(toy, one, case, STEPS), double=True)
    steps = zip(*(rank[name] for rank in ranks), strict=True)
    assert [(step[0][0], [row for part in step for row in part[1]]) for step in steps] == rows
    assert [step for step, _ in rows] == list(range(STEPS))
    a, b = (lines(folder / name / "run") for folder in (one, many))
    assert [line["world_size"] for line in a] == [1] * STEPS
    assert [line["world_size"] for line in b] == [len(ranks)] * STEPS
    for key in (
        "loss",
        "lr",
        *(k for k in a[0] if k.startswith(("clean", "mixed", "lam", "grad"))),
    ):
        for x, y in zip(a, b, strict=True):
            assert y[key] == pytest.approx(x[key], rel=1e-6, abs=1e-7), key
