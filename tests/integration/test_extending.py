"""The code of docs/extending.md, put into a copy of the checkout, passes the laws."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "extending.md"
BLOCK = re.compile(r'^```(\w+) title="([^"]+)"\n(.*?)^```$', re.M | re.S)
DRIVER = """
import sys, pytest, train
assert train.__file__.startswith({root!r}), train.__file__
flags = ["--method", "uniform", "--mix", "blobs", "--data", "folder:" + {toy!r}, "--dry-run",
         "--image-size", "32", "--batch-size", "16", "--backbone", "resnet10t"]
if status := train.main(flags):
    sys.exit(status)
laws = ["tests/models/test_methods.py", "tests/pipelines/test_unmix.py"]
plain = ["-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider",  # all is imported
         "-W", "ignore::pytest.PytestAssertRewriteWarning"]
sys.exit(pytest.main([*laws, "-k", "uniform or blobs", "-v", *plain]))
"""


def insert(text: str, lines: list[str], where: str) -> str:
    """Put each ``+`` line after the line of the file that the last line without ``+`` names."""
    after = ""
    for line in lines:
        if not line.startswith("+"):
            after = line[1:] + "\n"
            assert text.count(after) == 1, f"{where} has no one line {after!r}"
            continue
        text = text.replace(after, after + line[1:] + "\n", 1)
        after += line[1:] + "\n"
    return text


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout with the page's code in it."""
    root = tmp_path_factory.mktemp("extended")
    for name in ("pipelines", "models", "tools", "tests"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "eval.py", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    for language, name, code in BLOCK.findall(PAGE.read_text()):
        file = root / name
        text = insert(file.read_text(), code.splitlines(), name) if language == "diff" else code
        file.write_text(text)
    return root


def test_the_examples_are_short() -> None:
    blocks = {name: code for _, name, code in BLOCK.findall(PAGE.read_text())}
    method = blocks["models/methods/uniform.py"].splitlines()
    assert sum(1 for line in method if line and not line.startswith(("from", "import"))) < 60
    assert len(blocks["pipelines/mixtures/unmix.py"].splitlines()) < 60


def test_the_examples_pass_the_laws(extended: Path, toy: Path) -> None:
    driver = DRIVER.format(root=str(extended), toy=str(toy))
    done = subprocess.run(
        [sys.executable, "-B", "-c", driver], cwd=extended, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(extended), "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-4000:]
    assert "mix: blobs" in said and "sharpness: 2.0" in said  # the settings that --dry-run prints
    laws = ("goes_down", "lam_one", "two_orders", "labels", "own_pixels", "the_call_is_pure")
    passed = [line for line in said.splitlines() if line.endswith("]") and " PASSED " in line]
    assert [law for law in laws if not any(law in line for line in passed)] == []
