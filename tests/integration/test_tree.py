"""The rules of the tree: packages, file sizes, places of tests, and import contracts that hold."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.prefix) / "bin"
PACKAGES = ("pipelines", "models", "tools")
MODULES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
ROOMS = sorted({path.parent for path in MODULES})
CONTRACTS = {
    contract["id"]: contract["name"]
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
}

LONG_FILES = {
    "pipelines/augment/cpu.py": "one compiled kernel",
    "tools/config/sections.py": "to be split",
    "tools/figures.py": "to be split",
}
"""Files of more than 300 lines, and why."""
LONG_FUNCTIONS = {
    "pipelines/public/training.py:build_loader": "a line for each of its arguments",
}
"""Functions of more than 60 lines, and why."""


def test_every_folder_is_a_package_that_says_what_it_holds() -> None:
    for room in ROOMS:
        init = room / "__init__.py"
        assert init.is_file(), room
        assert ast.get_docstring(ast.parse(init.read_text())), init


def test_long_files_are_listed() -> None:
    long = {
        str(path.relative_to(ROOT))
        for path in [*MODULES, ROOT / "train.py", ROOT / "eval.py"]
        if len(path.read_text().splitlines()) > 300
    }
    assert long == set(LONG_FILES)


def test_long_functions_are_listed() -> None:
    long = {
        f"{path.relative_to(ROOT)}:{node.name}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= 60
    }
    assert long == set(LONG_FUNCTIONS)


def test_tests_lie_where_their_subject_does() -> None:
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()}
    others = {"integration", "faults", "support"}
    assert folders - {"__pycache__"} == {*PACKAGES, *others}
    assert {path.name for path in (ROOT / "tests").glob("*.py")} == {"conftest.py"}
    cases = "|".join(path.stem for path in (ROOT / "tests/support").glob("*.py"))
    for package in PACKAGES:
        for path in (ROOT / "tests" / package).glob("*.py"):
            assert path.name.startswith("test_"), path
            assert re.search(rf"\b({package}[./ ]|from ({cases}) )", path.read_text()), path


def test_every_room_is_imported_by_a_test() -> None:
    text = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    rooms = {".".join(room.relative_to(ROOT).parts) for room in ROOMS}
    assert {room for room in rooms if not re.search(rf"\b{re.escape(room)}\b", text)} == set()


# Each wall stops what is planted against it.


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages and the contracts, to plant imports in."""
    root = tmp_path_factory.mktemp("tree")
    shutil.copy(ROOT / "pyproject.toml", root)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    return root


IMPORTS = [
    ("packages", "models.modules.planted", "tools.runs.run_dir"),
    ("packages", "pipelines.sources.planted", "models.optim"),
    ("batch", "models.losses.planted", "pipelines.views"),
    ("tools", "tools.config.planted", "tools.engine.trainer"),
    ("tools", "tools.engine.planted", "tools.report"),
    ("tools", "tools.planted", "tools.runs.run_dir"),
    ("models", "models.modules.planted", "models.methods.base"),
    ("pipelines", "pipelines.sources.planted", "pipelines.loader"),
    ("methods", "models.methods.planted", "models.methods.moco"),
    ("decoders", "pipelines.decoders.dali.planted", "pipelines.decoders.ffcv"),
]
"""Contract, a module that does not exist, and what it must not import."""


@pytest.mark.parametrize(("contract", "importer", "imported"), IMPORTS)
def test_contract_stops(copy: Path, contract: str, importer: str, imported: str) -> None:
    path = copy / (importer.replace(".", "/") + ".py")
    if not path.parent.is_dir():  # a module named as a package: plant in the module itself
        importer, path = importer.rpartition(".")[0], path.parent.with_suffix(".py")
    before = path.read_text() if path.exists() else None
    path.write_text((before or '"""Planted."""\n') + f"\nimport {imported}\n")
    try:
        ended = subprocess.run(
            [BIN / "lint-imports", "--no-logo", "--no-cache", "--contract", contract],
            cwd=copy, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    finally:
        path.write_text(before) if before is not None else path.unlink()
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert f"{CONTRACTS[contract]} BROKEN" in ended.stdout.replace("\n", " ")
    assert importer.rpartition(".")[2] in ended.stdout


def test_each_contract_has_a_planted_import() -> None:
    assert {contract for contract, _, _ in IMPORTS} == set(CONTRACTS)


CODE = [
    ("TID251", "import train"),
    ("TID251", "import eval as evaluation"),
    ("TID251", "import random\nrandom.random()"),
    ("TID251", "from torch import manual_seed\nmanual_seed(1)"),
    ("TID251", "import torch\ntorch.cuda.manual_seed_all(1)"),
    ("NPY002", "import numpy as np\nnp.random.seed(1)"),
    ("NPY002", "import numpy as np\nnp.random.rand(1)"),
    ("SLF001", "import tools.runs.run_dir\ntools.runs.run_dir._private()"),
    ("PLR0913", "def wide(a, b, c, d, e, f, g, h, i): ..."),
]
"""Rule, and code that breaks it."""


@pytest.mark.parametrize(("rule", "code"), CODE)
def test_rule_stops(rule: str, code: str) -> None:
    ended = subprocess.run(
        [BIN / "ruff", "check", "--output-format", "json", "--no-cache",
         "--stdin-filename", "pipelines/planted.py", "-"],
        cwd=ROOT, input=code + "\n", capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert rule in {found["code"] for found in json.loads(ended.stdout)}
