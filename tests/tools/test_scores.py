"""What distorts a score is said, by train.py as by eval.py; the best checkpoint is kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import SMALL, TINY, lines, run_main, run_train, skip_pictures

import eval as evaluation
from pipelines.sources.arrays import Arrays
from pipelines.sources.beton import Beton
from pipelines.sources.files import Files
from pipelines.sources.overlap import rows_in
from pipelines.sources.table import Table
from pipelines.system.stored_file import LocalFile
from tools.config.cli import parse
from tools.config.preflight import preflight
from tools.evaluation.opening import loader_for
from tools.runs import checkpoint
from tools.scoring.knn import check_knn, knn, remarks, voters

ROOT = Path(__file__).parents[2]


# --- kNN ------------------------------------------------------------------------------------------


def points(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, n)
    rows = np.eye(3)[label] + 0.8 * rng.normal(size=(n, 3))
    return torch.from_numpy(rows).float(), torch.from_numpy(label)


def test_an_image_does_not_vote_on_itself() -> None:
    """Against a loop that takes each query's row out of the bank; some have no row there."""
    (bank, y_bank), (others, y_others) = points(60, 1), points(10, 2)
    y_bank[::7] = -1  # rows that do not vote move the numbers of those that do
    queries, labels = torch.cat([bank[20:40], others]), torch.cat([y_bank[20:40], y_others])
    own = torch.cat([torch.arange(20, 40), torch.full((10,), -1)])
    found = knn(bank, y_bank, queries, labels, k=5, own=own)
    right = []
    for query, label, row in zip(queries, labels, own.tolist(), strict=True):
        if label < 0:
            continue
        rest = [i for i in range(60) if i != row and y_bank[i] >= 0]
        one = knn(bank[rest], y_bank[rest], query[None], label[None], k=5)
        right.append(one["knn_top1"])
    assert found["knn_top1"] == pytest.approx(np.mean(right))
    itself = knn(bank, y_bank, bank, y_bank, k=1)["knn_top1"]
    apart = knn(bank, y_bank, bank, y_bank, k=1, own=torch.arange(60))["knn_top1"]
    assert itself == 1 and apart < 0.9


def test_as_many_can_vote_as_there_are_others() -> None:
    labels = torch.tensor([0, 1, 1, -1])
    assert voters(labels) == 3 and voters(labels, torch.tensor([0, -1])) == 2
    with pytest.raises(ValueError, match="--k 3"):
        check_knn(labels, labels, 3, 0.1, torch.arange(4))


@pytest.mark.parametrize(
    ("bank", "labels", "k", "wanted", "expected"),
    [
        ([0] * 5 + [1] * 5, [0, 1], 5, 5, []),
        ([0] * 5 + [1] * 5, [0, 1], 10, 200, ["--k 200 becomes 10"]),
        ([0] * 50 + [1] * 3, [0, 1], 20, None, ["class 1, has 3 training images", "--k 3"]),
        ([0] * 5 + [1] * 5, [0, 2], 5, None, ["class 2 has no training image"]),
        ([0, 0], [1, 2], 1, None, ["class 1 and 1 more classes have no training image"]),
    ],
)
def test_what_distorts_the_vote_is_said(
    bank: list[int], labels: list[int], k: int, wanted: int | None, expected: list[str]
) -> None:
    said = remarks(torch.tensor(bank), torch.tensor(labels), k, wanted=wanted)
    assert len(said) == (1 if expected else 0)
    assert all(text in said[0] for text in expected)


def test_images_that_are_their_own_neighbours_are_counted() -> None:
    y = torch.tensor([0, 0, 1, 1])
    (line,) = remarks(y, y[:3], 2, torch.tensor([0, -1, 3]))
    assert "2 of 3 validation images are training images too" in line


def table_of(source: Files | Arrays | Beton, count: int) -> Table:
    side = np.full(count, 8, np.int32)
    return Table(np.zeros(count, np.int64), side, side, source)


def test_images_of_both_sets_are_found_by_file_and_row(tmp_path: Path) -> None:
    names = ["a/1.png", "a/2.png", "b/1.png"]
    whole = table_of(Files(tmp_path, names), 3)
    (tmp_path / "link").symlink_to(tmp_path)
    part = table_of(Files(tmp_path / "link" / "a", ["2.png", "9.png"]), 2)
    assert rows_in(part, whole).tolist() == [1, -1]
    elsewhere = table_of(Files(tmp_path / "other", names), 3)
    beside = table_of(Files(tmp_path / "c", names), 3)
    assert rows_in(elsewhere, beside).tolist() == [-1, -1, -1]
    places, side = np.zeros(5, np.uint64), np.full(5, 8, np.int32)
    made = [
        Beton(LocalFile(tmp_path / name), places, places, places > 0, side, side)
        for name in ("train.beton", "val.beton", "link/train.beton")
    ]
    whole, apart, part = (table_of(source, 5) for source in made)
    part = part.take(np.array([4, 2]))
    assert part.source.name(1).endswith("train.beton row 2")
    assert rows_in(part, whole).tolist() == [4, 2] and rows_in(apart, whole).tolist() == [-1] * 5
    pixels = np.zeros((5, 1, 1, 3), np.uint8)
    train, val = (table_of(Arrays(f"cifar10 {s}", pixels), 5) for s in ("train", "val"))
    assert rows_in(val, train).tolist() == [-1] * 5
    few = train.take(np.array([4, 1])).take(np.array([1]))  # numbered as in the data set
    assert few.source.name(0) == "cifar10 train row 1" and rows_in(few, train).tolist() == [1]


# --- the loader -----------------------------------------------------------------------------------


def test_a_run_s_own_images_are_decoded_as_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loader_for(None, "memory", own=True) == ("memory", "as in training")
    assert loader_for("dali", "memory", own=True) == ("dali", "--loader")
    assert loader_for(None, "memory", own=False)[0] == "auto"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert loader_for(None, "ffcv", own=True)[0] == "auto"  # it is not installed here


# --- a run with --keep-best -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four epochs that end at once; the scores are made up, and the second is the best."""
    root = tmp_path_factory.mktemp("best")
    made = iter([0.2, 0.3, 0.9, 0.5, 0.6])
    with pytest.MonkeyPatch.context() as patch:
        skip_pictures(patch)
        patch.setattr(
            "tools.engine.online_knn.OnlineKnn.score",
            lambda self: {"knn_top1": next(made), "knn_top5": 1.0},
        )
        assert run_train(*flags(toy, root), "--limit-steps", "8") == 0
    return root / "run"


def flags(toy: Path, root: Path) -> tuple[str, ...]:
    flags = (*TINY, *SMALL["simclr"], "--method", "simclr", "--data", f"folder:{toy}")
    flags += ("--knn-every", "1", "--knn-k", "7", "--keep-best", "--keep-checkpoints", "1")
    return (*flags, "--output", str(root), "--name", "run")


def test_the_best_checkpoint_stays_next_to_the_last(run: Path) -> None:
    folder = run / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {"best", "last", "step-4.pt", "step-8.pt"}
    assert checkpoint.best(folder) == folder / "step-4.pt"
    assert checkpoint.find(folder / "best") == checkpoint.of_run(run, Path("best"))
    state = checkpoint.load(folder / "step-8.pt")
    assert state["best"] == {"step": 4, "knn_top1": 0.9} and state["loader"] == "memory"


def test_a_resumed_run_knows_its_best(run: Path, toy: Path) -> None:
    """A worse score and an equal one leave it; each score is that of another epoch."""
    made = iter([0.8, 0.9])
    with pytest.MonkeyPatch.context() as patch:
        skip_pictures(patch)
        patch.setattr(
            "tools.engine.online_knn.OnlineKnn.score",
            lambda self: {"knn_top1": next(made), "knn_top5": 1.0},
        )
        longer = (*flags(toy, run.parent), "--resume", "auto", "--epochs", "6")
        assert run_train(*longer) == 0
    folder = run / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {"best", "last", "step-4.pt", "step-12.pt"}
    assert lines(run)[-1]["step"] == 12


def test_eval_scores_the_best_as_training_does(
    run: Path, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("knn", str(run), "--checkpoint", "best", "--workers", "1")
    assert run_main(evaluation.main, *words) == 0
    said = capsys.readouterr().out
    assert "before training 20.0 %" in said  # the made-up score of step 0
    assert "step 4" in said and "loader memory (as in training)" in said and "k=7" in said
    line = json.loads((run / "eval.jsonl").read_text().splitlines()[-1])
    assert (line["step"], line["k"], line["loader"]) == (4, 7, "memory")
    same = (*words, "--data", f"folder:{toy / 'train'}", "--val-data", f"folder:{toy / 'train'}")
    assert run_main(evaluation.main, *same) == 0
    said = capsys.readouterr().out
    assert "40 of 40 validation images are training images too" in said
    assert run_main(evaluation.main, "knn", str(run), "--checkpoint", "step-9.pt") == 2
    said = capsys.readouterr().err
    assert "step-9.pt" in said and "step-12.pt" in said and len(said.splitlines()) == 1


def test_a_run_without_scores_has_no_best(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--knn-every"):
        preflight(parse(["--keep-best", "--knn-every", "0"]))
    assert run_train(*flags(toy, tmp_path), "--val-data", "none") == 2
    assert not any(tmp_path.iterdir())  # the name stays free


# --- --help ---------------------------------------------------------------------------------------


def test_help_imports_no_torch() -> None:
    code = """
import contextlib, io, sys
import eval
for name in ("", "knn", "linear", "embed", "semi", "finetune", "detect", "robustness"):
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        eval.main([*name.split(), "--help"])
    assert "--" in text.getvalue(), name
heavy = sys.modules.keys() & {"torch", "torchvision", "timm", "matplotlib", "numba", "accelerate"}
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
