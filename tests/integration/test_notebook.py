"""docs/notebooks: small, with the outputs of a run, and every cell runs in order."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "notebooks" / "first_run.ipynb"
RUNNER = ROOT / "tests" / "support" / "notebook.py"
PARAMETERS = """
run("-c", "print('a child speaks')")
try:
    run("-c", "raise SystemExit(3)")
except RuntimeError as error:
    print(error)


def run(*words):  # in this process: importing everything again for each command takes seconds
    from importlib import import_module

    from runs import run_main

    main = import_module(words[0].removesuffix(".py").replace("/", ".")).main
    assert run_main(main, *map(str, words[1:])) == 0


DATA, OUTPUT, NEIGHBOURS = {data!r}, {output!r}, 5
METHOD, MIXTURE = "byol", "unmix"
MORE = "--backbone test_resnet --image-size 16 --batch-size 16 --groups 4 --limit-steps 2"
MORE = f"{{MORE}} --workers 2 --optimizer momentum --lr 0.05 --log-every 1 --knn-every 0"
MORE = f"{{MORE}} --no-report --byol.dim 16 --byol.hidden 32".split()
"""


def test_every_cell_runs(toy: Path, tmp_path: Path) -> None:
    parameters = PARAMETERS.format(data=f"folder:{toy}", output=str(tmp_path))
    done = subprocess.run(
        [sys.executable, RUNNER, NOTEBOOK, "--set", parameters],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    run = tmp_path / "first-run"
    assert "a child speaks\n-c ended with status 3: see above" in done.stdout
    assert "kNN top-1" in done.stdout and "12 rows of 96 numbers" in done.stdout
    assert {"views.png", "curves.png", "features.npz", "export"} <= {p.name for p in run.iterdir()}
    assert json.loads((run / "export" / "config.json").read_text())["num_features"] == 96


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_it_holds_the_outputs_of_a_whole_run(cells: list[dict]) -> None:
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)]
    kinds = [kind for cell in code for out in cell["outputs"] for kind in out.get("data", ())]
    pictures = [
        Image.open(io.BytesIO(base64.b64decode("".join(out["data"][kind]))))
        for cell in code
        for out in cell["outputs"]
        for kind in out.get("data", ())
        if kind.startswith("image/")
    ]
    assert len(pictures) == 3 and len(kinds) == 6  # views, curves, neighbours; and their texts
    assert all(200 < picture.width <= 1000 for picture in pictures)
    text = "".join(line for cell in code for out in cell["outputs"] for line in out.get("text", ()))
    assert "kNN top-1" in text and "verified: max difference" in text
    assert NOTEBOOK.stat().st_size < 600_000


def test_it_is_a_notebook_of_plain_python(cells: list[dict]) -> None:
    held = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (held["nbformat"], held["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        if cell["cell_type"] == "code":
            compile("".join(cell["source"]), "cell", "exec")  # no %magic, no !command
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert str(ROOT) not in text and "/tmp/" not in text
