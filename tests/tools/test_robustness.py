"""eval.py robustness: every kept checkpoint, in the order of epochs, next to the other runs."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from runs import SMALL, TINY, run_main, run_train, skip_pictures

import eval as evaluation
from tools.runs import checkpoint

KEEP = ("--keep-checkpoints", "9", "--checkpoint-every", "2")


@pytest.fixture(scope="module")
def runs(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of two epochs of two steps, a checkpoint after each."""
    output = tmp_path_factory.mktemp("runs")
    patch = pytest.MonkeyPatch()
    skip_pictures(patch)
    flags = (*TINY, *SMALL["simclr"], "--data", f"folder:{toy}", "--output", str(output), *KEEP)
    for mix in ("none", "unmix"):
        named = ("--method", "simclr", "--mix", mix, "--name", mix, "--limit-steps", "4")
        assert run_train(*flags, *named) == 0
    patch.undo()
    return [output / "none", output / "unmix"]


def robustness(runs: list[Path], *flags: str) -> int:
    named = ("--runs", *map(str, runs), "--k", "5", "--workers", "1")
    return run_main(evaluation.main, "robustness", *named, *flags)


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "eval.jsonl").read_text().splitlines()]


def test_every_checkpoint_is_scored_as_eval_knn_does(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "curves.png"
    assert robustness(runs, "--output", str(plot)) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if "│" in line]
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table]
    assert [row[:3] for row in cells] == [
        ["none", "1", "2"], ["none", "2", "4"], ["unmix", "1", "2"], ["unmix", "2", "4"],
    ]  # fmt: skip
    with Image.open(plot) as picture:
        assert min(picture.size) > 300
    written = [line for run in runs for line in lines(run)]
    assert [line["step"] for line in written] == [2, 4, 2, 4]
    assert [f"{100 * line['knn_top1']:.2f}" for line in written] == [row[3] for row in cells]

    early = runs[0] / "checkpoints" / "step-2.pt"
    alone = ("knn", "--run", str(runs[0]), "--checkpoint", str(early), "--k", "5")
    assert run_main(evaluation.main, *alone) == 0
    before, now = lines(runs[0])[0], lines(runs[0])[-1]
    different = {name for name in now if now[name] != before[name]}
    assert different <= {"time", "command", "commit"}


def test_the_weights_are_those_of_the_checkpoint(runs: list[Path]) -> None:
    """Spoil the later checkpoint's weights: its score is chance, the earlier one's is not."""
    last = checkpoint.find(runs[1])[0]
    state = checkpoint.load(last)
    whole = last.read_bytes()
    for name, weight in state["method"].items():
        if weight.is_floating_point() and "backbone" in name:
            torch.nn.init.zeros_(weight)
    try:
        checkpoint.save(last.parent, 4, {k: v for k, v in state.items() if k != "format"}, 9)
        assert robustness(runs[1:]) == 0
    finally:
        last.write_bytes(whole)
    early, spoilt = lines(runs[1])[-2:]
    assert early["knn_top1"] > 0.5 and spoilt["knn_top1"] == pytest.approx(0.5)


def test_the_last_alone_and_a_linear_layer(
    runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(lines(runs[0]))
    flags = ("--checkpoints", "last", "--linear", "swav", "--epochs", "2", "--lr", "0.1")
    assert robustness(runs[:1], *flags) == 0
    new = lines(runs[0])[before:]
    assert [(line["protocol"], line["step"]) for line in new] == [("knn", 4), ("linear", 4)]
    row = next(x for x in capsys.readouterr().out.splitlines() if "│ none" in x)
    assert f"{100 * new[1]['linear_top1']:.2f}" in row


def test_what_cannot_be_compared_is_refused_before_any_work(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = runs[0] / "eval.jsonl"
    before = len(lines(runs[0])) if scores.exists() else 0
    other = tmp_path / "other"
    other.mkdir()
    text = (runs[0] / "config.yaml").read_text()
    (other / "config.yaml").write_text(text.replace("data: folder:", "data: folder:/elsewhere"))
    for which, named in (
        ([runs[0], other], "data"),
        ([runs[0], runs[0]], "named twice"),
        ([runs[0], tmp_path], "folder of a run"),
        ([], "names no run"),
    ):
        assert robustness(which) == 2
        said = capsys.readouterr().err
        assert named in said and "Traceback" not in said
    for flags in (("--output", "curves.doc"), ("--lr", "0.3")):
        assert robustness(runs, *flags) == 2
        assert flags[0] in capsys.readouterr().err
    assert (len(lines(runs[0])) if scores.exists() else 0) == before
