"""--help of every command: an example is a line of its own, and advice names flags that exist."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tools.bench import BENCHMARKS

ROOT = Path(__file__).parents[2]
COMMANDS = ["train", "eval"]
COMMANDS += [f"tools.{path.stem}" for path in sorted((ROOT / "tools").glob("[!_]*.py"))]
COMMANDS += [f"tools.benchmarks.{name}" for name in BENCHMARKS]
COMMANDS.remove("tools.demo")  # hands --help to train.py
EXAMPLE = re.compile(r"(?:python|accelerate launch) (?:train|eval|tools/\w+)\.py")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


@functools.cache
def help_of(name: str) -> str:
    """What a command prints for --help on a wide terminal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "240")
        with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
            importlib.import_module(name).main(["--help"])
    return printed.getvalue()


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_is_a_line_of_its_own(name: str) -> None:
    lines = [line.strip() for line in help_of(name).splitlines()]
    assert [line for line in lines if len(EXAMPLE.findall(line)) > 1] == []
    about = importlib.import_module(name).__doc__ or ""
    examples = [line.strip() for line in about.splitlines() if EXAMPLE.match(line.strip())]
    assert [example for example in examples if example not in lines] == []


@pytest.mark.parametrize(
    ("name", "usage"),
    [
        *((f"tools.{name}", "RUN [RUN ...]") for name in ("compare", "report")),
        ("tools.collect", "RUN FOLDER"),
        ("tools.export", "RUN OUTPUT"),
    ],
)
def test_the_usage_names_each_argument_by_what_it_is(name: str, usage: str) -> None:
    assert help_of(name).splitlines()[0].endswith(f" {usage}")
    assert "(default: )" not in help_of(name).partition("─ options")[0]


def test_most_commands_show_an_example() -> None:
    shown = [name for name in COMMANDS if EXAMPLE.search(help_of(name))]
    assert len(shown) >= len(COMMANDS) - 3, set(COMMANDS) - set(shown)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_advises_only_flags_that_it_has(name: str) -> None:
    """Those in its messages; the long texts are descriptions."""
    path = ROOT / "tools" / "benchmarks" / f"{name}.py"
    raised = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Raise)]
    advised = {flag for node in raised for flag in FLAG.findall(ast.unparse(node))}
    known = help_of(f"tools.benchmarks.{name}") + help_of("train")
    assert [flag for flag in advised if flag not in FLAG.findall(known)] == []


def test_the_loaders_have_the_flag_that_their_decoders_advise() -> None:
    """ "take --loader ffcv", say the decoders, as train.py has it."""
    assert "--loader" in FLAG.findall(help_of("tools.benchmarks.loaders"))


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_a_mistyped_test_file_ends_with_its_name() -> None:
    def make(words: str, *flags: str) -> subprocess.CompletedProcess[str]:
        line = ["make", *flags, "--old-file", "install", "test", f"ARGS={words}"]
        return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)

    for words in ("tests/nothing.py", "-x tests/tools/test_none.py::test_it", "tests/nowhere/"):
        ended = make(words)
        assert ended.returncode == 2
        assert ended.stderr.startswith("make test: there is no tests/")
        assert "tests/tools/" in ended.stderr
    good = "PY=echo"  # instead of Python, so that the words are printed
    assert "a or b" in make('-k "a or b" tests/tools/test_help.py', good).stdout
