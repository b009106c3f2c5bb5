"""The encoder that is scored and exported: that of the method's paper, or the one named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from compare_cases import write_run
from method_cases import Case, build
from runs import SMALL, TINY, run_main, run_train, skip_pictures, two_steps
from torch import nn

import eval as evaluation
from models import losses
from models.methods import METHODS
from models.methods.base import Method
from pipelines.data_facts import data_facts
from tools import export, report
from tools.engine import build as setup
from tools.engine.restore import restore
from tools.evaluation.detection.backbone import open_backbone
from tools.evaluation.tuning import Classifier
from tools.exporting.card import scores as card_scores
from tools.exporting.source import load
from tools.runs.scores import alike, read_scores

COPIES = {"moco": "key_encoder", "byol": "target", "moco-v3": "key_encoder", "dino": "teacher"}
"""Methods with a momentum copy, and its attribute."""
SCORED = dict.fromkeys(METHODS, "online") | {"dino": "momentum"}
"""Whose features the papers score. DINO's code: ``--checkpoint_key teacher``."""
IMAGES = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def runs(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two steps of three methods."""
    with pytest.MonkeyPatch.context() as patch:
        skip_pictures(patch)
        return {
            name: two_steps(name, toy, tmp_path_factory.mktemp(name), "--lr", "0.5")
            for name in ("dino", "byol", "simclr")
        }


def restored(run: Path, encoder: Any = None) -> Method:
    config, state = setup.load_run(run)
    return restore(config, state, data_facts(config.data), encoder).eval()


def results(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "eval.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", METHODS)
def test_the_paper_s_encoder_is_scored(name: str) -> None:
    assert METHODS[name].method.scored == SCORED[name]


@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("which", ["online", "momentum"])
def test_features_and_projection_are_of_the_encoder(name: str, which: Any) -> None:
    method = build(Case(name, sizes=(8, 8))).eval()
    copy = getattr(method, COPIES[name])
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.mul_(1.5).add_(0.1)
    method.scored = which
    images = torch.randn(6, 3, 8, 8, dtype=torch.float64)
    backbone, head = copy if which == "momentum" else (method.backbone, method.head)
    assert method.scored_encoder is backbone and method.named_encoder == which
    assert method.features(images).equal(backbone(images))
    assert method.project(images).equal(losses.unit(head(backbone(images))))


@pytest.mark.parametrize("name", sorted(METHODS.keys() - COPIES))
def test_one_encoder_has_no_name(name: str) -> None:
    sizes = (8,) if METHODS[name].settings.max_views == 1 else (8, 8)
    method = build(Case(name, sizes=sizes))
    assert method.named_encoder is None and method.scored_encoder is method.backbone


@pytest.mark.no_cover
@pytest.mark.parametrize(("name", "which"), [("dino", "momentum"), ("byol", "online")])
def test_a_result_names_the_encoder(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str], name: str, which: str
) -> None:
    run = runs[name]
    for flags, scored in (((), which), (("--encoder", "online"), "online"),
                          (("--encoder", "momentum"), "momentum")):  # fmt: skip
        for words in (
            ("knn", "--k", "3"),
            ("linear", "--epochs", "1"),
            ("semi", "--epochs", "1", "--fraction", "1"),
            ("finetune", "--epochs", "1"),
        ):
            capsys.readouterr()
            assert run_main(evaluation.main, words[0], "--run", str(run), *words[1:], *flags) == 0
            assert results(run)[-1]["encoder"] == scored
            assert f"step 2, {scored} encoder" in capsys.readouterr().out


def test_one_encoder_is_not_named(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(evaluation.main, "knn", "--run", str(runs["simclr"]), "--k", "3") == 0
    assert "encoder" not in results(runs["simclr"])[-1]
    assert "encoder" not in capsys.readouterr().out


@pytest.mark.parametrize("words", [("knn", "--k", "3"), ("linear",), ("semi",), ("finetune",),
                                   ("detect",), ("robustness",)])  # fmt: skip
def test_a_copy_that_is_not_there_is_refused(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    run = "--runs" if words[0] == "robustness" else "--run"
    given = (words[0], run, str(runs["simclr"]), *words[1:], "--encoder", "momentum")
    assert run_main(evaluation.main, *given) == 2
    said = capsys.readouterr().err
    assert "--encoder momentum: --method simclr keeps no momentum copy" in said


@pytest.mark.parametrize("words", [("finetune",), ("detect",)])
def test_random_weights_have_no_encoders(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    given = (*words, "--run", str(runs["byol"]), "--weights", "random", "--encoder", "online")
    assert run_main(evaluation.main, *given) == 2
    assert "--encoder chooses among" in capsys.readouterr().err


@pytest.mark.parametrize("which", [None, "online", "momentum"])
def test_an_export_is_of_the_encoder(runs: dict[str, Path], which: Any) -> None:
    source = load(runs["dino"], None, which)
    method = restored(runs["dino"])
    expected = method.backbone if which == "online" else method.teacher[0]  # type: ignore[union-attr, index]
    assert source.which == (which or "momentum")
    with torch.no_grad():
        assert source.encoder(IMAGES).equal(expected(IMAGES))  # type: ignore[operator]
        assert not method.backbone(IMAGES).equal(method.teacher[0](IMAGES))  # type: ignore[union-attr, index, operator]


def test_an_export_refuses_a_copy_that_is_not_there(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--run", str(runs["simclr"]), "--to", "timm", "--encoder", "momentum")
    assert run_main(export.main, *flags, str(tmp_path / "b.pth")) == 2
    assert "--encoder momentum: --method simclr" in capsys.readouterr().err


def test_a_card_says_which_scores_are_of_the_other_encoder(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    line = {"protocol": "knn", "step": 2, "knn_top1": 0.5}
    every = [line, line | {"encoder": "momentum"}]
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(x) + "\n" for x in every))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 2, "knn_top1": 0.5}) + "\n")
    _, _, during, old, new = card_scores(load(runs["dino"], None, None), tmp_path).splitlines()
    assert during.startswith("| kNN while training |") and new.startswith("| knn |")
    assert old.startswith("| knn, of the online encoder |")


@pytest.mark.parametrize("which", ["online", "momentum"])
def test_a_report_names_the_encoder(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str], which: str
) -> None:
    flags = ("--run", str(runs["dino"]), "--map", "pca")
    flags += ("--encoder", "online") if which == "online" else ()
    assert run_main(report.main, *flags) == 0
    page = (runs["dino"] / "report.html").read_text()
    assert f"Features of the {which} encoder" in page
    other = ("--run", str(runs["simclr"]), "--encoder", "momentum")
    assert run_main(report.main, *other) == 2
    assert "--method simclr keeps no momentum copy" in capsys.readouterr().err


def test_what_is_tuned_is_the_encoder(runs: dict[str, Path]) -> None:
    """Its weights learn, though a momentum copy's do not in its method."""
    method = restored(runs["dino"])
    assert Classifier(method, 2, 0).backbone is method.teacher[0]  # type: ignore[union-attr, index]


@pytest.fixture(scope="module")
def resnet(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("resnet")
    flags = ("--method", "dino", *TINY, *SMALL["dino"], "--data", f"folder:{toy}", "--lr", "0.5")
    more = ("--backbone", "resnet10t", "--stem", "standard", "--limit-steps", "1")
    assert run_train(*flags, *more, "--output", str(output), "--name", "run") == 0
    return output / "run"


@pytest.mark.parametrize("which", [None, "online"])
def test_a_detector_starts_from_the_encoder_and_trains_it(resnet: Path, which: Any) -> None:
    backbone = open_backbone(resnet, None, None, "resnet50", 0, which)
    method = restored(resnet, which)
    for (name, ours), theirs in zip(
        backbone.model.named_parameters(), method.scored_encoder.parameters(), strict=True
    ):
        assert ours.requires_grad, name
        assert ours.equal(theirs)
    assert backbone.encoder == (which or "momentum")
    assert f"step 1, {backbone.encoder} encoder" in backbone.description


def test_the_score_during_training_is_the_teacher_s(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[nn.Module] = []
    encode = Method.features

    def features(method: Method, images: torch.Tensor) -> torch.Tensor:
        seen.append(method.scored_encoder)
        assert method.scored_encoder is method.teacher[0]  # type: ignore[union-attr, index]
        return encode(method, images)

    monkeypatch.setattr(Method, "features", features)
    two_steps("dino", toy, tmp_path, "--knn-every", "1", "--val-data", f"folder:{toy}")
    assert seen


def test_lines_from_before_encoders_were_named_can_be_compared(tmp_path: Path) -> None:
    """They are of the encoder that learns; each method by its paper's encoder is scored alike."""
    byol_old = write_run(tmp_path, "byol-old", line={}, method="byol")
    byol = write_run(tmp_path, "byol", line={"encoder": "online"}, method="byol")
    dino = write_run(tmp_path, "dino", line={"encoder": "momentum"}, method="dino")
    simclr = write_run(tmp_path, "simclr", line={})
    runs = [byol_old, byol, dino, simclr]
    assert len(alike([read_scores(run, "knn") for run in runs])) == 4
    for name, method, line in (
        ("dino-old", "dino", {}),
        ("dino-student", "dino", {"encoder": "online"}),
        ("byol-target", "byol", {"encoder": "momentum"}),
    ):
        other = write_run(tmp_path, name, line=line, method=method)
        with pytest.raises(ValueError, match=r"were not scored alike .*encoder"):
            alike([read_scores(run, "knn") for run in (simclr, other)])
