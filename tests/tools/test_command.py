"""Every command ends with one line and a status, never with a traceback."""

from __future__ import annotations

import importlib
import io
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
import tyro

from pipelines.sources.image_file import BadImage
from tools.diagnostics import environment
from tools.export import Arguments
from tools.runs.command import by_position, command

ROOT = Path(__file__).parents[2]
COMMANDS = ["train.py", "eval.py", *(f"tools/{path.name}" for path in ROOT.glob("tools/[!_]*.py"))]
COMMANDS.remove("tools/doctor.py")  # it is there to say what is missing
MODULES = {"pillow": "PIL", "pyyaml": "yaml", "scikit-image": "skimage", "scikit-learn": "sklearn"}
"""The modules of requirements that have another name."""
MISSING = {
    "bench": "loaders --data nowhere",
    "collect": "nowhere nowhere",
    "compare": "nowhere",
    "export": "nowhere nowhere.pth --to timm",
    "figures": "curves nowhere",
    "gallery": "--output g.png --data nowhere",
    "neighbours": "nowhere",
    "profile_throughput": "--data nowhere",
    "report": "nowhere",
    "write_ffcv": "--verify nowhere.beton",
}
"""Arguments that name something that does not exist."""
TOOLS = [*MISSING, "doctor"]


@pytest.mark.parametrize("error", [ValueError, OSError, BadImage])
def test_a_bad_request_ends_with_its_reason_and_2(
    error: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    def body() -> None:
        raise error("--data nowhere: there is no such folder")

    assert command("tools/report.py", body) == 2
    written = capsys.readouterr()
    assert written.err == "tools/report.py: --data nowhere: there is no such folder\n"
    assert written.out == ""


def test_an_interrupt_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> None:
        raise KeyboardInterrupt

    assert command("eval.py", body) == 130
    assert capsys.readouterr().err == "eval.py: interrupted\n"


@pytest.mark.parametrize(("status", "expected"), [(None, 0), (0, 0), (3, 3)])
def test_the_status_of_the_body_passes(status: int | None, expected: int) -> None:
    assert command("train.py", lambda: status) == expected


def test_a_defect_of_the_program_keeps_its_traceback() -> None:
    def body() -> None:
        raise KeyError("method")

    with pytest.raises(KeyError):
        command("train.py", body)


def test_a_closed_pipe_ends_quietly_with_1() -> None:
    program = (
        "from tools.runs.command import command; import sys; "
        "sys.exit(command('x', lambda: print('y\\n' * 100_000)))"
    )
    words = [sys.executable, "-c", program]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, cwd=ROOT, text=True, **pipes) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.readline()
        run.stdout.close()
        assert run.stderr.read() == ""
        assert run.wait(60) == 1


def status_and_error(
    name: str, words: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> tuple[object, str]:
    """The exit status of a command and its stderr; a traceback fails the test."""
    module = importlib.import_module(f"tools.{name}")
    try:
        status = module.main(list(words))
    except SystemExit as exit_:
        status = exit_.code
    return status, capsys.readouterr().err


@pytest.mark.parametrize("name", TOOLS)
def test_a_mistyped_flag_ends_with_2(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*MISSING.get(name, "").split(), "--nosuch"]
    status, error = status_and_error(name, words, capsys)
    assert status == 2
    assert "--nosuch" in error


@pytest.mark.parametrize("name", [*MISSING])
def test_what_does_not_exist_ends_with_its_name_and_2(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, error = status_and_error(name, MISSING[name].split(), capsys)
    assert status == 2
    assert error.startswith(f"tools/{name}.py") and "nowhere" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("name", sorted({*TOOLS} - {"doctor", "profile_throughput"}))
def test_without_arguments_a_command_asks_for_them(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """doctor and profile_throughput need none."""
    status, error = status_and_error(name, [], capsys)
    assert status == 2 and error


class ClosedPipe(io.StringIO):
    def write(self, text: str, /) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("name", TOOLS)
def test_help_into_a_closed_pipe_ends_quietly_with_1(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", ClosedPipe())
    assert status_and_error(name, ["--help"], capsys) == (1, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_without_its_packages_a_command_names_the_environment(name: str) -> None:
    """``-I -S``: the interpreter without site-packages, as before ``make install``."""
    run = subprocess.run(
        [sys.executable, "-S", name], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert run.stderr.startswith(f"{name}: No module named 'numpy': ")
    assert f".venv/bin/python {name}" in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_every_requirement_is_looked_for() -> None:
    """But those that are imported where they are used, with a sentence of their own."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        requirements = tomllib.load(file)["project"]["dependencies"]
    names = [re.split(r"[<>=\[]", requirement)[0] for requirement in requirements]
    known = {MODULES.get(name, name) for name in names}
    assert known - {*environment.NEEDED} == {"tensorboard", "torchmetrics"}
    assert {*environment.NEEDED} <= known


def test_a_single_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    present = environment.find_spec
    monkeypatch.setattr(
        environment, "find_spec", lambda name: None if name == "tyro" else present(name)
    )
    reason = environment.missing_package(str(ROOT / "eval.py"))
    assert reason is not None and "No module named 'tyro'" in reason
    assert ".venv/bin/python eval.py" in reason


@pytest.mark.parametrize(
    "given",
    [
        ("runs/a", "--to", "timm", "b.pth"),
        ("--run", "runs/a", "--to", "timm", "b.pth"),
        ("--to", "timm", "b.pth", "--run=runs/a"),
        ("--output", "b.pth", "--to", "timm", "--run", "runs/a"),
        ("runs/a", "--output=b.pth", "--to", "timm"),
    ],
)
def test_run_and_output_go_by_position_or_by_name(given: tuple[str, ...]) -> None:
    assert by_position(given) == ["runs/a", "--to", "timm", "b.pth"]
    args = tyro.cli(Arguments, args=by_position(given))
    assert (args.run, args.output, args.to) == (Path("runs/a"), Path("b.pth"), "timm")
