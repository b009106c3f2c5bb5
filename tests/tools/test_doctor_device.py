"""``doctor --device``: what it says of paths that are right, wrong, missing and raising."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.system.device_path import DevicePath
from tools import doctor
from tools.diagnostics import device, small_loop
from tools.diagnostics.device import Result, as_json, as_text, of_path

CPU = torch.device("cpu")


def ones(place: torch.device) -> list[Tensor]:
    return [torch.ones(2)]


def raises(place: torch.device) -> list[Tensor]:
    raise RuntimeError("no such instruction")


@pytest.mark.parametrize(
    ("fast", "missing", "state", "difference", "found"),
    [
        (ones, "", "used", 0.0, ""),
        (lambda d: [torch.zeros(2)], "", "fallen back", 1.0, "it differs by 1.0e+00"),
        (raises, "", "fallen back", None, "it raised RuntimeError: no such instruction"),
        (ones, "no compiler", "fallen back", None, "it is missing: no compiler"),
    ],
)
def test_a_path_s_line(
    fast: Any, missing: str, state: str, difference: float | None, found: str
) -> None:
    line = of_path(DevicePath("a path", fast, ones, 0.5, lambda: missing), CPU)
    assert (line.state, line.difference) == (state, difference)
    assert line.found.startswith(found) and line.plain_milliseconds is not None
    assert (line.milliseconds is not None) == (state == "used")


def test_the_host_s_augmentation_equals_pytorch_s(monkeypatch: pytest.MonkeyPatch) -> None:
    found = device.on_host()
    assert found.state == "used" and found.difference is not None and found.difference < 1e-5
    monkeypatch.setattr(device.HOST_AUGMENTATION, "fast", raises)
    assert device.on_host().state == "FAILED"


class FakeLoop:
    """A loop whose steps wait for the device from the third on."""

    def __init__(self, waits: bool = True) -> None:
        self.learned, self.waits = 0, waits

    def step(self, number: int) -> int:
        return number

    def decode(self, step: int) -> int:
        return step

    finish = decode

    def batches(self, start: int, stop: int) -> Iterator[int]:
        yield from range(start, stop)

    def learn(self, batch: int) -> None:
        self.learned += 1
        if self.waits and self.learned == 3:
            raise RuntimeError("called a synchronizing CUDA operation")


def test_law_8_fails_if_a_step_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def watched(place: torch.device) -> Iterator[None]:
        yield

    monkeypatch.setattr(device, "no_waiting", watched)
    found = device._law_8(FakeLoop(), CPU)  # type: ignore[arg-type]
    assert (found.state, found.found) == ("FAILED", "called a synchronizing CUDA operation")
    assert device._law_8(FakeLoop(waits=False), CPU).state == "ok"  # type: ignore[arg-type]


def test_the_loop_trains_on_this_machine(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path))
    monkeypatch.setattr(small_loop, "DATA", f"folder:{toy / 'train'}")
    monkeypatch.setattr(small_loop, "ROWS", 16)
    monkeypatch.setattr(device, "STEPS", 4)
    (found,) = device.small_loop(CPU)
    assert found.state == "ok" and "batches alone" in found.found, found
    monkeypatch.setattr(device, "SmallLoop", lambda place: 1 / 0)
    (found,) = device.small_loop(CPU)
    assert (found.state, found.found) == ("FAILED", "ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    ("status", "log", "state", "found"),
    [
        (0, '{"loss": 2.5}', "ok", "loss 2.500 in"),
        (0, '{"loss": null}', "FAILED", "the loss is not finite"),
        (2, "", "FAILED", "status 2: train.py: no space"),
    ],
)
def test_the_run_s_line(
    status: int, log: str, state: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        folder = Path(words[words.index("--output") + 1], "run")
        folder.mkdir()
        (folder / "metrics.jsonl").write_text(f'{{"loss": 9}}\n{log}\n')
        return subprocess.CompletedProcess(words, status, "", "a line\ntrain.py: no space\n")

    monkeypatch.setattr(subprocess, "run", run)
    line = device.whole_run()
    assert line.state == state and line.found.startswith(found)


def test_without_a_gpu_the_command_says_so_and_succeeds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "small_loop", lambda place: [])
    monkeypatch.setattr(device, "whole_run", lambda: Result("20-step run", "ok"))
    missing = tmp_path / "none" / "found.json"
    assert doctor.main(["--device", "--json", str(missing)]) == 2  # before the minute of work
    assert f"there is no folder {missing.parent}" in capsys.readouterr().err
    file = tmp_path / "found.json"
    assert doctor.main(["--device", "--json", str(file)]) == 0
    said = capsys.readouterr().out
    assert said.count("torch sees no GPU") == len(device.PATHS) + 1
    found = json.loads(file.read_text())
    assert found["ok"] and found["device"] is None
    states = {line["name"]: line["state"] for line in found["results"]}
    assert states["fused augmentation"] == "not run" and states["host augmentation"] == "used"
    monkeypatch.setattr(device, "whole_run", lambda: Result("20-step run", "FAILED"))
    assert doctor.main(["--device", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False  # nothing else is printed


def test_the_table_and_json_hold_every_number() -> None:
    lines = [Result("a path", "used", 2.5e-6, 0.125, 3.5), Result("b", "fallen back", torch.inf)]
    text = as_text(lines).splitlines()
    assert text[1].split() == ["a", "path", "used", "2.5e-06", "0.12", "3.50"]
    assert text[2].split() == ["b", "fallen", "back", "inf"]
    first, second = json.loads(as_json(lines))["results"]
    assert first["difference"] == 2.5e-6 and second["difference"] is None
