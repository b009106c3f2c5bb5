"""Weights & Biases and Trackio, by modules that stand in for them: no package, no server."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from accelerate import Accelerator
from runs import reset_accelerate

from tools.config.cli import parse
from tools.runs.trackers import WANDB_ID, check_trackers, start_trackers


class StandIn(ModuleType):
    """A tracker's package: records each ``init``, or raises what it is given."""

    def __init__(self, name: str, error: Exception | None = None) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.started: list[dict[str, Any]] = []
        self.error = error

    def init(self, **settings: Any) -> SimpleNamespace:
        if self.error:
            raise self.error
        self.started.append(settings)
        return SimpleNamespace(log=lambda *_, **__: None, finish=lambda: None)


def installed(
    monkeypatch: pytest.MonkeyPatch, name: str, error: Exception | None = None
) -> StandIn:
    module = StandIn(name, error)
    monkeypatch.setitem(sys.modules, name, module)
    return module


@pytest.fixture
def accelerator() -> Accelerator:
    reset_accelerate()
    return Accelerator(cpu=True)


def test_a_resume_continues_the_run_in_wandb(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, accelerator: Accelerator
) -> None:
    wandb = installed(monkeypatch, "wandb")
    words = ["--log-with", "wandb", "--wandb-project", "cells", "--wandb-entity", "lab"]
    config = parse([*words, "--wandb-tags", "swav", "first"])
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    for folder in (*folders, folders[0]):
        start_trackers(accelerator, folder, config)
    first, other, resumed = wandb.started
    assert first == resumed and first["id"] != other["id"]
    assert first["id"] == (folders[0] / WANDB_ID).read_text()
    assert first["resume"] == "allow" and first["name"] == "a"
    assert (first["project"], first["entity"], first["tags"]) == ("cells", "lab", ["swav", "first"])
    start_trackers(accelerator, folders[1], parse(["--log-with", "wandb"]))
    assert wandb.started[-1]["project"] == "b"


def test_trackio_continues_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, accelerator: Accelerator
) -> None:
    trackio = installed(monkeypatch, "trackio")
    config = parse(["--log-with", "trackio", "--wandb-project", "cells"])
    check_trackers(config.log_with)
    start_trackers(accelerator, tmp_path, config)
    assert trackio.started == [{"project": "cells", "name": tmp_path.name, "resume": "allow"}]


def test_wandb_without_a_login_ends_in_one_line_with_the_fix(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, accelerator: Accelerator
) -> None:
    error = type("UsageError", (Exception,), {})(
        "api_key not configured (no-tty).\ncall wandb.login"
    )
    installed(monkeypatch, "wandb", error)
    with pytest.raises(ValueError, match="--log-with wandb: api_key not configured") as raised:
        start_trackers(accelerator, tmp_path, parse(["--log-with", "wandb"]))
    text = str(raised.value)
    assert "\n" not in text and "'wandb login'" in text and "WANDB_MODE=offline" in text
