"""tools/results.sh: its commands parse, it goes on where it stopped, and scores what is done."""

import os
import subprocess
from pathlib import Path

import pytest

from tools.run.flags import parse

ROOT = Path(__file__).parents[1]
PYTHON = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> "$LOG"
[[ $1 == train.py && $* == *"$STOP"* ]] && exit 75
exit 0
"""


def script(folder: Path, *words: str, stop: str = "nothing") -> tuple[int, list[list[str]], str]:
    """Run it with a Python that notes its arguments; return status, commands and errors."""
    python, log = folder / "python", folder / "log"
    python.write_text(PYTHON)
    python.chmod(0o755)
    log.write_text("")
    given = {"PYTHON": str(python), "LOG": str(log), "OUTPUT": str(folder), "STOP": stop}
    done = subprocess.run(
        [ROOT / "tools/results.sh", *words], env=os.environ | given, capture_output=True, text=True
    )
    return done.returncode, [line.split() for line in log.read_text().splitlines()], done.stderr


@pytest.mark.parametrize(("pair", "variants"), [("simclr", 2), ("swav", 2), ("clim", 5)])
def test_every_command_parses(
    pair: str, variants: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    status, commands, _ = script(tmp_path, pair, "60", "0", "1")
    assert status == 0
    trained = [words[1:] for words in commands if words[0] == "train.py"]
    assert len(trained) == 2 * variants
    for words in trained[:variants]:
        config = parse([word for word in words if word not in ("--resume", "auto")])
        assert config.epochs == 60 and config.data == "cifar10" and config.precision == "bf16"
        told = config.clim.rule if pair == "clim" and config.mix == "clim" else config.mix
        assert config.name == f"{pair}-{told}-60-seed{config.seed}"
    scored = [words[1] for words in commands if words[0] == "eval.py"]
    assert scored == ["knn", "linear"] * 2 * variants
    compared = [words for words in commands if words[0] == "tools/compare.py"]
    assert len(compared) == (4 if pair == "clim" else 2)


def test_a_slice_that_ends_is_said_and_nothing_is_scored(tmp_path: Path) -> None:
    status, commands, said = script(tmp_path, "moco", "60", "0", "1", stop="unmix-60-seed0")
    assert status == 75 and "moco-unmix-60-seed0" in said
    assert [words[0] for words in commands] == ["train.py"] * 2
    assert script(tmp_path, "moco", "60")[0] == 2
    assert "no pair mico" in script(tmp_path, "mico", "60", "0")[2]


def test_what_is_done_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("none", "unmix"):
        run = tmp_path / f"byol-{name}-60-seed0"
        run.mkdir()
        (run / "report.html").touch()
    (tmp_path / "byol-none-60-seed0/eval.jsonl").write_text('{"protocol": "knn"}\n')
    monkeypatch.setenv("MINUTES", "0")
    status, commands, said = script(tmp_path, "byol", "60", "0")
    assert (status, commands) == (75, []) and "over in its scores" in said
    monkeypatch.setenv("MINUTES", "1")
    status, commands, _ = script(tmp_path, "byol", "60", "0")
    assert status == 0 and "train.py" not in {words[0] for words in commands}
    assert [words[1] for words in commands if words[0] == "eval.py"] == ["linear", "knn", "linear"]
