"""``--on-nan rollback``: continue from the last good checkpoint without the failed step."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate.state import PartialState
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1]))
from launch_cases import flags
from processes import in_group
from runs import lines, run_train, skip_pictures

from pipelines.batch import Batch
from tools.engine import trainer
from tools.engine.rollback import LIMIT, NEAR, crowd
from tools.runs import checkpoint

ROLLBACK = ("--on-nan", "rollback", "--checkpoint-minutes", "0")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of a tiny run's time."""
    skip_pictures(monkeypatch)


def spoil(
    patch: pytest.MonkeyPatch,
    steps: Collection[int],
    how: str = "loss",
    on: Callable[[], bool] = lambda: False,
) -> list[int]:
    """Make these steps' losses NaN, or what they leave of the weights; SIGTERM when ``on()``.

    Returns the steps that are trained on, as they come.
    """
    trained, step = [], trainer.Run.train_on

    def train_on(run: trainer.Run, batch: Batch) -> None:
        trained.append(batch.step)
        if batch.step in steps and how == "loss":
            for view in batch.views:
                view.fill_(math.nan)
        step(run, batch)
        if on():
            signal.raise_signal(signal.SIGTERM)

    if how == "weights":
        make = trainer.make_optimizer

        def make_optimizer(*settings: Any) -> torch.optim.Optimizer:
            made = make(*settings)
            weight = made.param_groups[0]["params"][0]

            def after(*_: Any) -> None:
                if trained[-1] in steps:
                    weight.data[0] = math.inf

            made.register_step_post_hook(after)
            return made

        patch.setattr(trainer, "make_optimizer", make_optimizer)
    patch.setattr(trainer.Run, "train_on", train_on)
    return trained


def leave_out(patch: pytest.MonkeyPatch, steps: Collection[int]) -> None:
    """Make a run without these steps: nothing is computed in them."""
    step = trainer.Run.train_on

    def train_on(run: trainer.Run, batch: Batch) -> None:
        if batch.step not in steps:
            step(run, batch)

    patch.setattr(trainer.Run, "train_on", train_on)


def end(run: Path) -> dict[str, Any]:
    """What a run's last checkpoint holds."""
    path = checkpoint.last(run / "checkpoints")
    assert path is not None
    return checkpoint.load(path)


def assert_same(one: Path, other: Path) -> None:
    """Weights, buffers, momentum and the last line's loss, bit for bit."""
    a, b = end(one), end(other)
    assert a["step"] == b["step"]
    for name, value in a["method"].items():
        assert torch.equal(value, b["method"][name]), name
    for key, slots in a["optimizer"]["state"].items():
        for name, value in slots.items():
            assert torch.equal(value, b["optimizer"]["state"][key][name])
    assert lines(one)[-1]["loss"] == lines(other)[-1]["loss"]


@pytest.mark.parametrize(
    ("method", "mix", "every", "bad"),
    [
        ("moco", "clim", "3", {3}),  # the first after a checkpoint, with a table of neighbours
        ("swav", "unmix", "100", {1, 4}),  # back to the start, twice
    ],
)
def test_the_run_is_one_without_the_step(
    toy: Path, tmp_path: Path, method: str, mix: str, every: str, bad: set[int]
) -> None:
    """Lines come each second step: a step trains on weights that are NaN before it is noticed."""
    more = ["--mix", mix, "--limit-steps", "6", "--log-every", "5", "--checkpoint-every", every]
    if mix == "clim":
        more += ["--clim.neighbours", "6", "--clim.clusters", "5", "--clim.start-epoch", "1"]
    with pytest.MonkeyPatch.context() as patch:
        trained = spoil(patch, bad)
        assert run_train(*flags(toy, tmp_path / "a", method, *more, *ROLLBACK)) == 0
    with pytest.MonkeyPatch.context() as patch:
        leave_out(patch, bad)
        assert run_train(*flags(toy, tmp_path / "b", method, *more)) == 0
    assert_same(tmp_path / "a/run", tmp_path / "b/run")
    assert end(tmp_path / "a/run")["left_out"] == sorted(bad)
    assert lines(tmp_path / "a/run")[-1]["steps_left_out"] == len(bad)
    assert trained[-1] == 5 and all(trained.count(step) == 1 for step in bad)


def of_two(toy: Path, output: Path) -> dict[str, Any]:
    """One of two processes: a run whose step 3 is NaN in the second process alone."""
    clim = ("--mix", "clim", "--clim.neighbours", "6", "--clim.clusters", "5")
    often = ("--check-ranks", "1", "--limit-steps", "6", "--log-every", "5")
    more = (*clim, "--clim.start-epoch", "1", *often, "--checkpoint-every", "3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PartialState, "destroy_process_group", lambda *_: None)
        skip_pictures(patch)
        trained = spoil(patch, {3} if dist.get_rank() == 1 else ())
        assert run_train(*flags(toy, output, "moco", *more, *ROLLBACK)) == 0
    return {"trained": trained}


def test_processes_go_back_together(toy: Path, tmp_path: Path) -> None:
    """Each to the same step, weights and table of neighbours (``--check-ranks``)."""
    first, second = in_group(2, tmp_path, of_two, toy, tmp_path)
    assert first == second
    assert first["trained"].count(3) == 1 and first["trained"][-1] == 5
    state = end(tmp_path / "run")
    assert (state["step"], state["left_out"], state["world_size"]) == (6, [3], 2)
    assert all(value.isfinite().all() for value in state["method"].values())


def test_a_resumed_run_leaves_the_step_out_as_well(toy: Path, tmp_path: Path) -> None:
    """Stopped by a signal after the rollback, before it comes to the step."""
    argv = flags(toy, tmp_path, "moco", *ROLLBACK, "--limit-steps", "5", "--log-every", "5")
    with pytest.MonkeyPatch.context() as patch:
        trained = spoil(patch, {3}, on=lambda: trained == [0, 1, 2, 3, 0])
        assert run_train(*argv) == trainer.STOPPED
        assert (end(tmp_path / "run")["step"], end(tmp_path / "run")["left_out"]) == (1, [3])
        del trained[:]
        assert run_train(*argv, "--resume", "auto") == 0
    assert trained == [1, 2, 4]


def test_a_signal_in_the_step_that_breaks(toy: Path, tmp_path: Path) -> None:
    """The run stops where it went back to, and knows the step when it goes on."""
    more = ("--limit-steps", "5", "--log-every", "5", "--checkpoint-every", "2")
    argv = flags(toy, tmp_path, "moco", *ROLLBACK, *more)
    with pytest.MonkeyPatch.context() as patch:
        trained = spoil(patch, {2}, on=lambda: trained == [0, 1, 2])
        assert run_train(*argv) == trainer.STOPPED
        assert (end(tmp_path / "run")["step"], end(tmp_path / "run")["left_out"]) == (2, [2])
        del trained[:]
        assert run_train(*argv, "--resume", "auto") == 0
    assert trained == [3, 4]


def test_a_step_whose_line_has_no_loss(toy: Path, tmp_path: Path) -> None:
    """With a line each step, that of the step left out says when, but no loss."""
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, {0, 2})
        more = ("--limit-steps", "4", "--checkpoint-every", "1")
        assert run_train(*flags(toy, tmp_path, "swav", *more, *ROLLBACK)) == 0
    found = lines(tmp_path / "run")
    assert [line["step"] for line in found] == [1, 2, 3, 4]
    assert ["loss" in line for line in found] == [False, True, False, True]
    assert [line["steps_left_out"] for line in found] == [1, 1, 2, 2]


def test_a_step_that_spoils_the_weights_is_the_one_left_out(toy: Path, tmp_path: Path) -> None:
    """Its own loss is finite; no checkpoint holds what it did."""
    more = ("--limit-steps", "5", "--checkpoint-every", "1", "--log-every", "2")
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, {3}, "weights")
        assert run_train(*flags(toy, tmp_path / "a", "byol", *more, *ROLLBACK)) == 0
    assert end(tmp_path / "a/run")["left_out"] == [3]
    assert all(v.isfinite().all() for v in end(tmp_path / "a/run")["method"].values())
    with pytest.MonkeyPatch.context() as patch:
        leave_out(patch, {3})
        assert run_train(*flags(toy, tmp_path / "b", "byol", *more)) == 0
    assert_same(tmp_path / "a/run", tmp_path / "b/run")


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    toy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The newest one loses its end while the run goes on."""
    argv = flags(toy, tmp_path, "moco", *ROLLBACK, "--limit-steps", "6", "--checkpoint-every", "2")
    newest = tmp_path / "run/checkpoints/step-4.pt"

    def damage() -> bool:
        if trained == [0, 1, 2, 3, 4]:
            newest.write_bytes(newest.read_bytes()[:-1])
        return False

    with pytest.MonkeyPatch.context() as patch:
        trained = spoil(patch, {4}, on=damage)
        assert run_train(*argv) == 0
    assert trained == [0, 1, 2, 3, 4, 2, 3, 5]
    assert f"{newest} is damaged" in caplog.text and "step-2.pt, the one before" in caplog.text
    assert (end(tmp_path / "run")["step"], end(tmp_path / "run")["left_out"]) == (6, [4])


@given(st.sets(st.integers(0, 400), max_size=12))
def test_a_crowd_is_more_than_three_steps_of_a_hundred(steps: set[int]) -> None:
    """Against every window of 100 steps."""
    windows = (sorted(steps & set(range(at, at + NEAR))) for at in range(401))
    crowded = [window for window in windows if len(window) > LIMIT]
    assert bool(crowd(steps)) == bool(crowded)
    assert not crowd(steps) or any(set(crowd(steps)) <= set(window) for window in crowded)


def test_it_gives_up_where_step_after_step_breaks(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Checkpoints between them, of steps left out alone, change nothing."""
    more = ("--limit-steps", "8", "--checkpoint-every", "2")
    with pytest.MonkeyPatch.context() as patch:
        trained = spoil(patch, range(1, 100))
        assert run_train(*flags(toy, tmp_path, "moco", *more, *ROLLBACK)) == 2
    said = capsys.readouterr()
    assert "gave up" in said.err and "steps 1, 2, 3, 4 were not finite" in said.err
    assert "images are rows [" in said.err and "back to step 0" in said.out
    assert max(trained) == 1 + LIMIT and [trained.count(step) for step in range(1, 5)] == [1] * 4
    assert end(tmp_path / "run")["left_out"] == [1, 2, 3]


def test_stop_names_the_way_out(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, {2})
        assert run_train(*flags(toy, tmp_path, "moco", "--limit-steps", "4")) == 2
    said = capsys.readouterr().err
    assert "step 2" in said and "--on-nan rollback" in said
