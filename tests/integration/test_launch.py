"""Runs of several processes: launchers, signals and sudden deaths."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from launch_cases import (
    FEW,
    RESUMED,
    STEPS,
    assert_law_4,
    case_flags,
    flags,
    recorded_rows,
    resume,
    work,
)
from launched import (
    ACCELERATE,
    LONG,
    TORCHRUN,
    end,
    start,
    wait_for_steps,
)
from processes import in_group
from runs import lines, run_train, skip_pictures

from pipelines.batch import Batch
from tools.distributed import launch
from tools.engine import trainer
from tools.runs import checkpoint

# --- one process and two -------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranks(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Where a group of two trained, and the rows that each of them saw."""
    output = tmp_path_factory.mktemp("ranks")
    return output / "many", in_group(2, output, work, toy, output / "many", FEW)


@pytest.mark.no_cover
@pytest.mark.parametrize("case", FEW, ids="-".join)
def test_two_processes_train_as_one(
    case: tuple[str, str], toy: Path, tmp_path: Path, ranks: tuple[Path, list[dict[str, Any]]]
) -> None:
    """Law 4 on the whole run; tests/faults/scale.py does all methods, and four processes."""
    assert_law_4(toy, ranks[0], tmp_path, ranks[1], case)


@pytest.mark.no_cover
def test_a_run_goes_on_with_another_number_of_processes(toy: Path, tmp_path: Path) -> None:
    """One process, then two, then one."""
    output, name = tmp_path, "-".join(RESUMED)
    assert run_train(*case_flags(toy, output / "resumed", RESUMED, STEPS - 1)) == 0
    seen = [rank["rows"] for rank in in_group(2, output, resume, toy, output / "resumed")]
    assert [step for step, _ in seen[0]] == [STEPS - 1]
    again = case_flags(toy, output / "resumed", RESUMED, STEPS + 1)
    assert [step for step, _ in recorded_rows(*again, "--resume", "auto")] == [STEPS]
    straight = case_flags(toy, output / "straight", RESUMED, STEPS + 1)
    assert run_train(*straight) == 0
    resumed, whole = (lines(output / folder / name / "run") for folder in ("resumed", "straight"))
    assert [line["step"] for line in resumed] == [1, 2, 3, 4]
    assert [line["world_size"] for line in resumed] == [1, 1, 2, 1]
    a, b = ([line["loss"] for line in of] for of in (whole, resumed))
    assert b[:STEPS] == pytest.approx(a[:STEPS], rel=1e-5)  # up to the first forward of two
    assert b[STEPS:] == pytest.approx(a[STEPS:], rel=0.02)  # in float32, see recorded_rows


# --- real launchers and signals ------------------------------------------------------------


@pytest.mark.no_cover
def test_a_signal_then_a_sudden_death_change_nothing(toy: Path, tmp_path: Path) -> None:
    """Law 3: SIGTERM, resumed, kill -9, resumed; the losses are those of the straight run."""
    run = tmp_path / "a" / "run"
    command = (*flags(toy, tmp_path / "a", "moco", "--mix", "unmix"), *LONG)
    process = start((), command)
    wait_for_steps(process, run, 2)
    process.send_signal(signal.SIGTERM)
    status, said = end(process)
    assert status == 75, said
    stopped = lines(run)[-1]["step"]
    last = checkpoint.last(run / "checkpoints")
    assert last is not None and checkpoint.step_of(last) == stopped
    assert (run / "RESUME").exists() and "stopped by SIGTERM" in said

    process = start((), (*command, "--resume", "auto"))
    wait_for_steps(process, run, stopped + 2)
    os.killpg(process.pid, signal.SIGKILL)
    assert end(process)[0] == -signal.SIGKILL
    assert not (run / "RESUME").exists()
    last = checkpoint.last(run / "checkpoints")
    assert last is not None
    killed = checkpoint.step_of(last)
    assert killed > stopped

    until = ("--limit-steps", str(killed + 2))
    rows = recorded_rows(*command, "--resume", "auto", *until)
    assert [step for step, _ in rows] == [killed, killed + 1]
    straight = (*flags(toy, tmp_path / "b", "moco", "--mix", "unmix"), *LONG, *until)
    assert recorded_rows(*straight)[killed:] == rows
    numbers = [
        [(line["step"], line["loss"], line["lr"]) for line in lines(tmp_path / x / "run")]
        for x in "ab"
    ]
    assert numbers[0] == numbers[1] and len(numbers[0]) == killed + 2


def test_a_lost_terminal_saves_the_run(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGHUP in the second step; test_preemption.py closes a real terminal."""
    train_on = trainer.Run.train_on

    def hung_up(run: trainer.Run, batch: Batch) -> None:
        train_on(run, batch)
        if batch.step == 1:
            signal.raise_signal(signal.SIGHUP)

    monkeypatch.setattr(trainer.Run, "train_on", hung_up)
    monkeypatch.setattr("tools.distributed.preemption.STANDARD_OUTPUTS", ())
    skip_pictures(monkeypatch)
    assert run_train(*flags(toy, tmp_path, "moco")) == trainer.STOPPED
    last = checkpoint.last(tmp_path / "run" / "checkpoints")
    assert last is not None and checkpoint.step_of(last) == 2
    assert (tmp_path / "run" / "RESUME").exists()


def test_accelerate_launch_starts_two_processes(toy: Path, tmp_path: Path) -> None:
    more = ("--mix", "region", "--limit-steps", "2")
    status, said = end(start(ACCELERATE, flags(toy, tmp_path, "swav", *more)))
    assert status == 0, said
    assert [line["world_size"] for line in lines(tmp_path / "run")] == [2, 2]


def test_torchrun_starts_two_processes_that_stop_together(toy: Path, tmp_path: Path) -> None:
    """The launcher forwards the signal; its own status says little, so the file is the promise."""
    run = tmp_path / "run"
    process = start(TORCHRUN, (*flags(toy, tmp_path, "simclr", "--mix", "unmix"), *LONG))
    wait_for_steps(process, run, 2)
    process.send_signal(signal.SIGTERM)
    status, said = end(process)
    assert status != 0
    assert (run / "RESUME").exists(), said
    logged = lines(run)
    assert {line["world_size"] for line in logged} == {2}
    last = checkpoint.last(run / "checkpoints")
    assert last is not None and checkpoint.step_of(last) == logged[-1]["step"]


# --- what a launcher may not ask for ---------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("ACCELERATE_DYNAMO_BACKEND", "inductor", "--dynamo_backend"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2", "--gradient_accumulation_steps"),
        ("ACCELERATE_USE_FSDP", "true", "FSDP"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "DEEPSPEED"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", "MEGATRON_LM"),
    ],
)
def test_a_launcher_s_setting_is_refused_by_name(
    toy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    value: str,
    named: str,
) -> None:
    monkeypatch.setenv(variable, value)
    assert run_train(*flags(toy, tmp_path, "moco")) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_processes_that_did_not_find_each_other_are_refused(
    toy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What a plain Accelerator() says of two launched processes on the host: one each."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(launch, "Accelerator", lambda **_: SimpleNamespace(num_processes=1))
    assert run_train(*flags(toy, tmp_path, "moco")) == 2
    assert "started 2 processes but 1 joined" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_launcher_that_starts_one_of_several_is_refused(toy: Path, tmp_path: Path) -> None:
    """Accelerate's own, without --multi_gpu."""
    module = ("accelerate.commands.launch", "--cpu", "--num_processes", "2")
    status, said = end(start(module, flags(toy, tmp_path, "moco")))
    assert status != 0 and not (tmp_path / "run").exists()
    assert "was asked for 2 processes, but without --multi_gpu it starts one" in said
    assert "accelerate launch --multi_gpu --num_processes 2 train.py" in said


ALONE = {"ACCELERATE_USE_CPU": "False", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_one_process_is_one_where_it_was_asked_for() -> None:
    words = ["accelerate", "launch", "train.py"]
    with pytest.raises(ValueError, match="several processes"):
        launch.refuse_one_of_many(ALONE, {}, words)
    with pytest.raises(ValueError, match="3 processes"):
        launch.refuse_one_of_many(ALONE, {}, [*words, "--num_processes=3"])
    several = (
        r"it starts one: give --multi_gpu, .*\n    accelerate launch --multi_gpu --num_processes N"
    )
    with pytest.raises(ValueError, match=several):
        launch.refuse_one_of_many(ALONE, {}, [])
    whole = ["python", "/bin/accelerate", "launch", "--cpu", "--num_processes", "2", "train.py"]
    with pytest.raises(ValueError, match="--multi_gpu instead of --cpu") as refused:
        launch.refuse_one_of_many(ALONE, {}, [*whole, "--data", "folder:my images", ""])
    assert str(refused.value).splitlines()[1] == (
        "    accelerate launch --multi_gpu --num_processes 2 train.py --data 'folder:my images'"
    )
    own = {"MASTER_ADDR": "node7"}  # a cluster's own variable, which the launcher passes on
    launch.refuse_one_of_many(ALONE | own, own, words)
    launch.refuse_one_of_many(ALONE | {"WORLD_SIZE": "2"}, {}, words)
    launch.refuse_one_of_many(ALONE | {"OMPI_COMM_WORLD_SIZE": "2"}, {}, words)
    launch.refuse_one_of_many({"ACCELERATE_USE_CPU": "True"}, {}, words)
    launch.refuse_one_of_many(own, {}, words)
