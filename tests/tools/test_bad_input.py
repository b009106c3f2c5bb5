"""Every command on what is not there, of the wrong kind or empty: one line, status 2."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from runs import run_main

ROOT = Path(__file__).parents[2]
ON_RUNS = {
    "eval": ("knn {}", "finetune {}", "detect {}", "robustness {}"),
    "tools.collect": ("{} out",),
    "tools.compare": ("{}", "{} --protocol linear --json"),
    "tools.export": ("{} b.pth --to timm", "{} hub --to huggingface"),
    "tools.figures": tuple(f"{name} {{}}" for name in ("weights", "tsne", "curves", "budget")),
    "tools.neighbours": ("{}",),
    "tools.report": ("{}",),
    "train": ("--resume {}",),
}
"""Arguments of the commands that take a run."""
ON_DATA = {
    "tools.bench": ("loaders --data {}", "decode --data {}", "dali --data {}"),
    "tools.gallery": ("--output g.png --data {}",),
    "tools.profile_throughput": ("--data {}",),
    "tools.write_ffcv": ("{} out.beton", "--verify {}"),
    "train": ("--data {}", "--data {} --dry-run", "--recipe {}"),
}
"""Arguments of the commands that take images."""
ALONE = {"tools.demo", "tools.doctor", "tools.cache"}
"""Commands that read neither."""


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of text, an empty folder, and a run's folder without its content."""
    root = tmp_path_factory.mktemp("things")
    (root / "notes.txt").write_text("no image, no run\n")
    (root / "empty").mkdir()
    (root / "begun").mkdir()
    (root / "begun" / "config.yaml").write_text("method: [moco\n")
    (root / "broken.beton").write_bytes(b"\x02\x00 not a table")
    return root


def one_line(
    name: str, words: list[str], capsys: pytest.CaptureFixture[str], folder: Path, bad: str
) -> None:
    """The command ends with 2 and one line that names itself and the argument."""
    before = sorted(folder.rglob("*"))
    capsys.readouterr()
    assert run_main(importlib.import_module(name).main, *words) == 2
    error = capsys.readouterr().err.strip()
    title = f"{name.replace('.', '/')}.py"
    assert error.startswith(title), error
    assert bad in error and "Traceback" not in error
    assert len(error.splitlines()) == 1, error
    assert sorted(folder.rglob("*")) == before  # and nothing is left behind


@pytest.mark.parametrize("bad", ["nowhere", "notes.txt", "empty", "begun"])
@pytest.mark.parametrize(("name", "line"), [(n, line) for n in ON_RUNS for line in ON_RUNS[n]])
def test_what_is_no_run(
    name: str,
    line: str,
    bad: str,
    things: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(things)
    one_line(name, line.format(bad).split(), capsys, things, bad)


@pytest.mark.parametrize(
    "bad", ["nowhere.beton", "folder:notes.txt", "folder:empty", "broken.beton"]
)
@pytest.mark.parametrize(("name", "line"), [(n, line) for n in ON_DATA for line in ON_DATA[n]])
def test_what_is_no_data(
    name: str,
    line: str,
    bad: str,
    things: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(things)
    one_line(name, line.format(bad).split(), capsys, things, bad.removeprefix("folder:"))


def test_a_folder_of_runs_leads_to_its_runs(
    things: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(things.parent)
    one_line("tools.compare", [things.name], capsys, things, f"such as {things.name}/begun")


def test_every_command_is_here() -> None:
    commands = {f"tools.{path.stem}" for path in (ROOT / "tools").glob("[!_]*.py")}
    assert commands | {"train", "eval"} <= {*ON_RUNS, *ON_DATA, *ALONE}
