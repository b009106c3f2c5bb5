"""A run is named by a path or by a name below ./runs, wherever one is asked for."""

from pathlib import Path

import pytest
import yaml
from runs import run_main

from tools import collect, export
from tools.config.cli import parse
from tools.config.init import start_of
from tools.runs import checkpoint
from tools.runs.locate import find_run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run, runs/vit-small, with a file for a checkpoint."""
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/vit-small")
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints/step-2.pt").write_text("weights")
    (folder / "config.yaml").write_text(yaml.safe_dump({"method": "byol", "image_size": 32}))
    return folder


def test_a_name_below_runs_is_a_run(run: Path) -> None:
    name = Path("vit-small")
    assert find_run(name) == run
    assert checkpoint.find(name) == [run / "checkpoints/step-2.pt"]
    assert checkpoint.find(name / "checkpoints/step-2.pt") == checkpoint.find(name)
    assert parse(["--resume", "vit-small"]).method == "byol"
    assert start_of("vit-small").name == str(run)


@pytest.mark.parametrize("name", ["vit", "runs/vitt-small"])
def test_a_name_that_is_no_run_suggests_one(run: Path, name: str) -> None:
    suggestion = r"did you mean runs/vit-small\?"
    for ask in (
        lambda: find_run(Path(name)),
        lambda: checkpoint.find(Path(name)),
        lambda: parse(["--resume", name]),
        lambda: start_of(name),
    ):
        with pytest.raises(ValueError, match=suggestion):
            ask()


def test_a_path_below_runs_is_no_model_of_the_hub() -> None:
    with pytest.raises(ValueError, match="there is no such file or run") as caught:
        start_of("runs/vitt")
    assert "hf-hub:runs" not in str(caught.value)


def test_commands_take_the_name(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(collect.main, "vit-small", "out") == 0
    assert Path("out/vit-small.json").is_file()
    assert run_main(export.main, "vit-small", "--to", "timm", "b.pth") == 2
    assert "runs/vit-small/checkpoints/step-2.pt is damaged" in capsys.readouterr().err
