"""The Dockerfile copies existing files, installs what tools/install.sh does, and lints clean."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

from tools.diagnostics import checks

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
BASE = {"ca-certificates", "git", "make", "python3", "python3-venv"}
"""Packages that ``make install`` is started with."""


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    copied = [
        source
        for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.M)
        for source in line.split()[:-1]
    ]
    kept = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert kept == set(copied)
    assert set(copied) >= {"pipelines", "models", "tools", "train.py", "eval.py"}


def test_system_packages_are_those_of_install_sh() -> None:
    (installed,) = re.findall(r"--no-install-recommends (.*?)&&", DOCKERFILE)
    ffcv = {package for _, _, package in checks.system_parts()}
    (own,) = {name for name in ffcv if re.fullmatch(r"(lib)?python3\.\d+-dev", name)}
    ffcv.remove(own)  # of the interpreter that asks; the image has its own
    assert len(ffcv) >= 6
    assert "missing_system_packages" in (ROOT / "tools/install.sh").read_text()
    headers = {name for name in installed.split() if re.fullmatch(r"python3\.\d+-dev", name)}
    assert len(headers) == 1
    assert set(installed.split()) - BASE - headers == ffcv


def test_hadolint_finds_nothing() -> None:
    lint = [Path(sys.prefix) / "bin/hadolint", ROOT / "Dockerfile"]
    ended = subprocess.run(lint, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stdout


def test_hooks_before_a_commit_are_local_and_those_of_make_lint() -> None:
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repo["repo"] == "local"
    recipe = (ROOT / "Makefile").read_text().split("\nlint:")[1].split("\n\n")[0]
    for hook in repo["hooks"]:
        program = (
            hook["entry"].removeprefix(".venv/bin/").removeprefix("python -m ").split(" --")[0]
        )
        assert program in recipe, hook["id"]
    assert len(repo["hooks"]) == recipe.count("\n\t")
