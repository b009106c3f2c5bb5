"""Checkpoints: written state is read back, and damage is detected anywhere in the file."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from launch_cases import flags
from runs import lines, run_train, skip_pictures

from tools.runs import checkpoint, run_dir

STATE: dict[str, Any] = {
    "method": {f"layer{i}.weight": torch.full((5, 7), i / 3) for i in range(3)},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]},
    "scaler": None,
    "config": {"method": "moco"},
    "data": {"images": 40, "key": "abc"},
    "world_size": 1,
}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of a tiny run's time."""
    skip_pictures(monkeypatch)


def names(where: Path) -> set[str]:
    return {path.name for path in where.iterdir()}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    state = checkpoint.load(checkpoint.save(tmp_path, 7, STATE, keep=2))
    assert state.keys() == {"format", "step", *STATE} and state["step"] == 7
    for name, value in STATE["method"].items():
        assert torch.equal(state["method"][name], value)


def parts(data: bytes) -> dict[str, range]:
    """Where the pieces of a checkpoint lie in it."""
    content = data[: -len(checkpoint.TRAILER) - 32]
    begin = content.rindex(b"PK\x05\x06")
    size, table = (int.from_bytes(content[begin + i : begin + i + 4], "little") for i in (12, 16))
    return {
        "pickle": range(64, 64 + 400),
        "tensors": range(content.index(b"data/0"), content.index(b".data/serialization")),
        "table of contents": range(table, table + size),
        "end of the zip": range(begin, len(content)),
        "trailer": range(len(content), len(data)),
    }


def test_any_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """Of each part 60 bytes; torch itself loads other numbers from some of these files."""
    path = checkpoint.save(tmp_path, 1, STATE, keep=1)
    data, rng, misread = path.read_bytes(), np.random.default_rng(0), 0
    for places in parts(data).values():
        for place in rng.choice(np.array(places), min(60, len(places)), replace=False):
            damaged = bytearray(data)
            damaged[place] ^= 1 << rng.integers(8)
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=r"step-1\.pt is damaged"):
                checkpoint.load(path)
            misread += misread_by_torch(path)
    assert misread > 10  # so the digest is needed


def misread_by_torch(path: Path) -> bool:
    try:
        state = torch.load(path, weights_only=True)
        return any(not torch.equal(state["method"][k], v) for k, v in STATE["method"].items())
    except Exception:
        return False


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, 0.999])
def test_a_file_cut_off_is_noticed(tmp_path: Path, share: float) -> None:
    path = checkpoint.save(tmp_path, 1, STATE, keep=1)
    data = path.read_bytes()
    for length in {int(len(data) * share), len(data) - 1, len(data) - 40, len(data) - 45}:
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"step-1\.pt is damaged"):
            checkpoint.load(path)


def test_nothing_loaded_can_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return print, ("run",)

    path = checkpoint.save(tmp_path, 1, STATE | {"scaler": Evil()}, keep=1)
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        checkpoint.load(path)


def test_the_newest_and_each_so_many_stay(tmp_path: Path) -> None:
    for step in range(1, 12):
        checkpoint.save(tmp_path, step, STATE, keep=2, keep_each=4)
    assert names(tmp_path) == {"last", *(f"step-{n}.pt" for n in (4, 8, 10, 11))}


def test_an_attempt_given_up_does_not_push_out_the_new_one(tmp_path: Path) -> None:
    """After --resume of an earlier file the numbers go on from there."""
    for step in (90, 100, 20, 30, 40):
        checkpoint.save(tmp_path, step, STATE, keep=2)
    found = [checkpoint.step_of(path) for path in checkpoint.available(tmp_path)]
    assert found == [40, 30]


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A folder with the checkpoints of steps 2, 4 and 6."""
    for step in (2, 4, 6):
        checkpoint.save(tmp_path / "checkpoints", step, STATE, keep=3)
    return tmp_path / "checkpoints"


@pytest.mark.parametrize("by", ["run", "checkpoints", "last"])
def test_a_damaged_newest_gives_way_to_the_one_before(
    three: Path, by: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = {"run": three.parent, "checkpoints": three, "last": three / "last"}[by]
    spoil(three / "step-6.pt")
    assert checkpoint.first_whole(checkpoint.find(path)) == three / "step-4.pt"
    assert str(three / "step-6.pt") in caplog.text and str(three / "step-4.pt") in caplog.text
    assert "not what was written" in caplog.text


def test_last_missing_torn_or_wrong(three: Path) -> None:
    def best() -> int:
        return checkpoint.step_of(checkpoint.first_whole(checkpoint.find(three.parent)))

    (three / "last").unlink()
    assert best() == 6
    for text, step in [("step-4.pt", 4), ("step-5.pt", 4), ("", 6), ("ste", 6), ("../x", 6)]:
        (three / "last").write_text(text)
        assert best() == step, text
    (three / "last").write_bytes(b"\xff\xfe")
    assert best() == 6
    (three / "step-6.pt").unlink()
    assert best() == 4


def test_nothing_but_damage_is_an_error_that_names_all(three: Path) -> None:
    for path in checkpoint.find(three):
        spoil(path)
    with pytest.raises(ValueError) as caught:
        checkpoint.first_whole(checkpoint.find(three))
    assert all(f"step-{step}.pt is damaged" in str(caught.value) for step in (2, 4, 6))


def test_a_run_falls_back_and_says_so(
    toy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    start = flags(toy, tmp_path, "simclr", "--checkpoint-every", "2", "--limit-steps", "4")
    assert run_train(*start) == 0
    before, newest = lines(tmp_path / "run"), tmp_path / "run" / "checkpoints" / "step-4.pt"
    spoil(newest)
    assert run_train(*start, "--resume", str(newest)) == 2
    assert "step-4.pt is damaged" in capsys.readouterr().err
    assert run_train(*start, "--resume", "auto") == 0
    assert "going on from" in caplog.text and "resumed at step 2" in capsys.readouterr().out
    after = lines(tmp_path / "run")
    assert [(m["step"], m["loss"]) for m in after] == [(m["step"], m["loss"]) for m in before]


def test_epochs_and_minutes(toy: Path, tmp_path: Path) -> None:
    """An epoch has two steps."""
    more = ("--limit-steps", "7", "--keep-checkpoints", "1", "--keep-every-epochs", "2")
    assert run_train(*flags(toy, tmp_path / "a", "simclr", *more)) == 0
    kept = {"last", "step-4.pt", "step-7.pt"}
    assert names(tmp_path / "a" / "run" / "checkpoints") == kept
    more = ("--limit-steps", "4", "--keep-checkpoints", "9", "--checkpoint-minutes", "1e-9")
    more = (*more, "--log-every", "3")  # besides, each epoch's last step is logged
    assert run_train(*flags(toy, tmp_path / "b", "simclr", *more)) == 0
    kept = {"last", *(f"step-{step}.pt" for step in (1, 2, 3, 4))}  # the first waits for no line
    assert names(tmp_path / "b" / "run" / "checkpoints") == kept


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, STATE, keep=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 300, 2000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(OSError, match=r"step-2\.pt could not be written: File too large"):
                checkpoint.save(tmp_path, 2, STATE, keep=1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert names(tmp_path) == {"last", "step-1.pt"}
    assert checkpoint.first_whole(checkpoint.find(tmp_path)) == tmp_path / "step-1.pt"


# --- the folder ------------------------------------------------------------------------------

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "a+")
fcntl.flock(file, fcntl.LOCK_EX)
file.write("process 7 on host")
file.flush()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_in_use_is_refused(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    start = flags(toy, tmp_path, "simclr", "--limit-steps", "1", "--resume", "auto")
    run.mkdir()
    command = [sys.executable, "-c", HOLD, str(run / run_dir.LOCK)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        assert run_train(*start) == 2
        said = capsys.readouterr().err
        assert "in use by process 7 on host" in said and "--name" in said
        assert names(run) == {run_dir.LOCK}
        other.kill()  # as sudden as it gets
    assert run_train(*start) == 0


@pytest.mark.parametrize("more", [(), ("--resume", "auto")])
def test_an_unwritable_folder_is_refused_before_any_work(
    toy: Path,
    tmp_path: Path,
    more: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tools.engine.data.open_data_of", None)
    file = tmp_path / "file"
    file.touch()
    assert run_train(*flags(toy, file / "runs", "simclr", *more)) == 2
    said = capsys.readouterr().err
    assert "--output" in said and str(file) in said


def test_a_copy_damaged_in_the_middle_is_none(tmp_path: Path) -> None:
    """Its end is that of the whole one, so the first process has to send its own."""
    path = checkpoint.save(tmp_path, 1, STATE, keep=1)
    end = checkpoint.signature(path)
    assert checkpoint.is_copy(path, end) and not checkpoint.is_copy(tmp_path / "none.pt", end)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert checkpoint.signature(path) == end and not checkpoint.is_copy(path, end)
