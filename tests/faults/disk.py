"""Full or read-only disks, and two runs in one folder."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from attempts import consumed, finish, nothing, start
from launch_cases import flags
from runs import run_main

from tools import write_ffcv
from tools.runs import checkpoint


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 40 MB of its own; a checkpoint here has 5."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, left: int = 40_960) -> Path:
    """Leave some bytes; remove the file returned to make room."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            file.truncate(file.tell() - left)
            return path
    raise AssertionError


def test_a_disk_that_is_full_at_a_save(toy: Path, tmp_path: Path, small_disk: Path) -> None:
    """The run ends and names the file; it goes on from what was saved before."""
    output = small_disk / "runs"
    run = output / "run" / "checkpoints"
    command = (*flags(toy, output, "moco"), "--checkpoint-every", "2", "--limit-steps", "6")
    big = ("--moco.queue", "512", "--resume", "auto")
    assert finish(start((*command, *big, "--limit-steps", "2"), tmp_path / "a", nothing)) == 0
    filler = fill(small_disk)
    assert finish(start((*command, *big), tmp_path / "b", nothing)) == 2
    said = (tmp_path / "b.txt").read_text()
    assert "step-4.pt could not be written: No space left on device" in said
    assert "Traceback" not in said
    assert {path.name for path in run.iterdir()} == {"last", "step-2.pt"}
    assert checkpoint.step_of(checkpoint.first_whole(checkpoint.find(run))) == 2
    filler.unlink()
    assert finish(start((*command, *big), tmp_path / "c", nothing)) == 0
    assert [step for step, _ in consumed(tmp_path / "c")] == [2, 3, 4, 5]


def test_a_disk_that_fills_while_a_beton_is_written(
    toy: Path, small_disk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The estimate before the first byte is told that there is room: another process took it."""
    monkeypatch.setattr("pipelines.beton.convert.check_room", lambda *_: None)
    out = small_disk / "toy.beton"
    assert run_main(write_ffcv.main, f"folder:{toy}", str(out), "--max-size", "16") == 0
    whole = out.read_bytes()
    fill(small_disk, 8192)
    assert run_main(write_ffcv.main, f"folder:{toy}", str(out), "--overwrite") == 2
    said = capsys.readouterr().err
    assert f"no space left for {out}" in said and "Traceback" not in said
    assert out.read_bytes() == whole
    left = {path.name for path in small_disk.iterdir()}
    assert left == {"toy.beton", "toy.beton.json", "filler"}


def test_a_disk_that_is_read_only(toy: Path, tmp_path: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert finish(start(flags(toy, small_disk / "runs", "moco"), tmp_path / "a", nothing)) == 2
    said = (tmp_path / "a.txt").read_text()
    assert f"nothing can be written in {small_disk}: Read-only file system" in said
    assert "Traceback" not in said and not consumed(tmp_path / "a")


def test_two_runs_in_one_folder(toy: Path, tmp_path: Path) -> None:
    """Three start at once: one trains, the others are refused; then the folder is free again."""
    command = (*flags(toy, tmp_path, "moco"), "--resume", "auto", "--epochs", "40")
    rows = [tmp_path / str(i) for i in range(3)]
    processes = [start((*command, "--limit-steps", "40"), path, nothing) for path in rows]
    assert sorted(finish(process) for process in processes) == [0, 2, 2]
    trained = [len(consumed(path)) for path in rows]
    assert sorted(trained) == [0, 0, 40]
    for path, steps in zip(rows, trained, strict=True):
        said = path.with_suffix(".txt").read_text()
        assert ("is in use by process" in said) == (steps == 0), said
    assert finish(start((*command, "--limit-steps", "41"), tmp_path / "after", nothing)) == 0
    assert [step for step, _ in consumed(tmp_path / "after")] == [40]
