"""Protocols that train on labels: the labels used, the training, and several processes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from processes import in_group
from protocol_cases import COMMANDS, numbers_of
from runs import run_main, two_steps
from toy_cases import toy_images

import eval as evaluation
from pipelines.data_facts import IMAGENET
from pipelines.loader import Loader
from pipelines.presets import PRESETS as VIEWS
from pipelines.sources.arrays import Arrays
from pipelines.sources.files import Files
from pipelines.sources.table import Table
from pipelines.views import View
from tools.engine import build
from tools.evaluation import feed as feeding
from tools.evaluation.feed import batch_that_fits, listed, stratified
from tools.evaluation.linear import PRESETS, Linear, PresetName
from tools.evaluation.semi import Semi
from tools.evaluation.tuning import Tuning, lr_scale
from tools.runs import checkpoint

STD, PROBE = IMAGENET.std, (0.2470, 0.2435, 0.2616)
(INSDIS,) = VIEWS["insdis"](16)

# --- which labels --------------------------------------------------------------------------


def test_few_labels_are_a_share_of_each_class() -> None:
    label = np.repeat(np.arange(5), (2, 10, 149, 150, 1000))
    label = np.random.default_rng(0).permutation(np.append(label, [-1] * 50))
    rows = stratified(label, 0.01, seed=1)
    counts = np.bincount(label[rows]).tolist()
    assert counts == [1, 1, 1, 2, 10] and list(rows) == sorted(set(rows.tolist()))
    assert stratified(label, 0.01, seed=1).tolist() == rows.tolist()
    assert stratified(label, 0.01, seed=2).tolist() != rows.tolist()
    assert set(rows) < set(stratified(label, 0.1, seed=1))
    assert stratified(label, 1.0, seed=1).tolist() == np.flatnonzero(label >= 0).tolist()


def files(*names: str) -> Table:
    sizes = np.full(len(names), 8, np.int32)
    return Table(np.arange(len(names)), sizes, sizes, Files(Path("/data"), names))


def test_a_list_names_files_or_paths(tmp_path: Path) -> None:
    table, file = files("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/3.jpg"), tmp_path / "list.txt"
    file.write_text("3.jpg\n\nb/1.jpg\n2.jpg\n")
    assert listed(table, file).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("2.jpg\n9.jpg\n", "9.jpg is not in"),
        ("1.jpg\n", "more than once"),
        ("2.jpg\na/2.jpg\n", "twice"),
        ("\n", "no image"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(tmp_path: Path, text: str, named: str) -> None:
    table, file = files("a/1.jpg", "a/2.jpg", "b/1.jpg"), tmp_path / "list.txt"
    file.write_text(text)
    with pytest.raises(ValueError, match=named) as error:
        listed(table, file)
    assert "--list" in str(error.value)


def test_a_list_needs_files(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("1.jpg\n")
    size = np.full(1, 8, np.int32)
    table = Table(np.zeros(1, np.int64), size, size, Arrays("x", np.zeros((1, 8, 8, 3), np.uint8)))
    with pytest.raises(ValueError, match="--fraction"):
        listed(table, tmp_path / "list.txt")


def test_batches_are_filled_and_shared() -> None:
    assert batch_that_fits(256, 1000, 2) == 256
    assert batch_that_fits(256, 51, 1) == 51 and batch_that_fits(256, 51, 2) == 50
    for wanted, rows, world in ((255, 1000, 2), (4, 1, 2)):
        with pytest.raises(ValueError, match="--"):
            batch_that_fits(wanted, rows, world)


# --- published numbers ---------------------------------------------------------------------


def test_semi_takes_swav_s_rates_for_the_batch_there_is() -> None:
    one = Semi(run=Path("x")).tuning(0.01, 256)
    ten = Semi(run=Path("x"), fraction=0.1).tuning(0.1, 64)
    assert (one.lr, one.head_lr) == (0.02, 5.0) and (one.epochs, one.weight_decay) == (20, 0)
    assert (ten.lr, ten.head_lr) == (0.01 / 4, 0.2 / 4)
    rates = [lr_scale(one, step, 1) for step in range(20)]
    assert rates == pytest.approx([5.0] * 12 + [1.0] * 4 + [0.2] * 4)
    given = Semi(run=Path("x"), lr=0.0, head_lr=1.0).tuning(0.01, 16)
    assert (given.lr, given.head_lr) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("preset", "seen"),
    [
        ("moco", [30, 30, 3, 0.3]),
        ("swav", [0.3, 0.3 * 0.5, 0.3 * 0.5 * (1 + np.cos(0.6 * np.pi)), 0]),
        ("cmc", [30, 30 * 0.2, 30 * 0.2**2, 30 * 0.2**3]),
        ("cmc-imagenet100", [30, 30 * 0.2, 30 * 0.2**2, 30 * 0.2**3]),
        ("insdis", [30, 30 * 0.2, 30 * 0.2**2, 30 * 0.2**3]),
        ("insdis-imagenet100", [10, 10 * 0.2, 10 * 0.2**2, 10 * 0.2**3]),
        ("whitening", [1e-2, 1e-4, 1e-2 * 1e-4**0.6, 1e-6]),
    ],
)
def test_presets_are_the_published_schedules(preset: str, seen: Sequence[float]) -> None:
    plan, (lr,) = Linear(run=Path("x"), preset=preset).plan()
    shares = (0, 0.5, 0.7 if "cmc" in preset or "insdis" in preset else 0.6, 0.9999)
    rates = [plan.rate(lr, round(share * plan.epochs * 100), 100) for share in shares]
    if preset == "swav":
        seen = [0.3, 0.15, 0.15 * (1 + np.cos(0.6 * np.pi)), 0]
    assert rates == pytest.approx(seen, rel=2e-3, abs=1e-6)


@pytest.mark.parametrize(
    ("preset", "crop_scale", "views", "std"),
    [
        ("moco", (0.08, 1.0), "plain", None),
        ("swav", (0.08, 1.0), "plain", None),
        ("swav-cifar", (0.08, 1.0), "plain", (0.2470, 0.2435, 0.2616)),
        ("cmc", (0.08, 1.0), "plain", None),
        ("cmc-imagenet100", (0.2, 1.0), "plain", None),
        ("insdis", (0.08, 1.0), "insdis", None),
        ("insdis-imagenet100", (0.2, 1.0), "insdis", None),
        ("whitening", (0.08, 1.0), "plain", None),
    ],
)
def test_presets_show_images_as_published(
    preset: PresetName,
    crop_scale: tuple[float, float],
    views: str,
    std: tuple[float, float, float] | None,
) -> None:
    """Spec 2.8, 3.2, 3.4, 3.5."""
    shown = Linear(run=Path("x"), preset=preset).shown()
    assert (shown.crop_scale, shown.views, shown.std) == (crop_scale, views, std)
    assert PRESETS.keys() == set(get_args(PresetName))
    plan = Linear(run=Path("x"), preset=preset).plan()[0]
    of_cmc = shown.plan.milestones == (30, 40, 50)
    assert of_cmc == (plan.epochs == 60) == (preset.startswith(("cmc", "insdis")))


def test_fewer_epochs_stretch_a_preset_s_drops_but_not_given_ones() -> None:
    assert Linear(run=Path("x"), preset="moco", epochs=10).plan()[0].milestones == (6, 8)
    given = Linear(run=Path("x"), preset="moco", epochs=10, milestones=(3,))
    assert given.plan()[0].milestones == (3,)


def test_the_warm_up_and_the_cosine_of_finetune() -> None:
    tuning = Tuning(4, 8, lr=0.1, head_lr=1.0, warmup_epochs=1)
    assert [lr_scale(tuning, step, 2) for step in (0, 1, 2, 5)] == pytest.approx([0.5, 1, 1, 0.5])


# --- commands ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_steps("moco", toy, tmp_path_factory.mktemp("runs"))


def run_eval(name: str, run: Path, *flags: str) -> int:
    return run_main(evaluation.main, name, "--run", str(run), *flags)


def last_line(run: Path) -> dict:
    return json.loads((run / "eval.jsonl").read_text().splitlines()[-1])


@pytest.mark.parametrize(
    ("flags", "deviation", "view"),
    [
        ((), STD, View(16, (0.08, 1.0), jitter_prob=0.0, gray=0.0)),
        (("--preset", "swav-cifar"), PROBE, View(16, (0.08, 1.0), jitter_prob=0.0, gray=0.0)),
        (("--preset", "cmc-imagenet100"), STD, View(16, (0.2, 1.0), jitter_prob=0.0, gray=0.0)),
        (("--std", ".1", ".2", ".3"), (0.1, 0.2, 0.3), None),
        (("--preset", "insdis-imagenet100"), STD, replace(INSDIS, scale=(0.2, 1.0))),
        (
            ("--preset", "insdis", "--crop-scale", ".5", ".6"),
            STD,
            replace(INSDIS, scale=(0.5, 0.6)),
        ),
    ],
)
def test_the_linear_layer_sees_images_as_its_preset_says(
    run: Path,
    flags: tuple[str, ...],
    deviation: tuple[float, ...],
    view: View | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scored: list[Any] = []
    trained: list[Loader] = []
    batches, feed = build.evaluation_batches, feeding.feed

    def evaluation_batches(*words: Any) -> Any:
        scored.append(words[2].std)
        return batches(*words)

    def watched(*words: Any) -> Loader:
        trained.append(feed(*words))
        return trained[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "evaluation_batches", evaluation_batches)
        patch.setattr(feeding, "feed", watched)
        small = ("--epochs", "1", "--batch-size", "16", "--milestones", "1")
        small = small if "cmc" in str(flags) or "insdis" in str(flags) else small[:4]
        assert run_eval("linear", run, *flags, *small) == 0
        assert run_eval("linear", run, *flags, *small, "--images", "augmented") == 0
    assert scored == [deviation] * 3 and trained[0].maker.std == deviation
    assert view is None or trained[0].maker.views.views == (view,)
    line, said = last_line(run), capsys.readouterr().out
    assert line.get("std") == (None if deviation == STD else list(deviation))
    assert ("images are divided by --std" in said) == (deviation != STD)
    assert line.get("views") == ("insdis" if "insdis" in str(flags) else None)
    assert line["crop_scale"] == list(trained[0].maker.views.views[0].scale)


@pytest.mark.parametrize(
    "words", [("--std", "1"), ("--crop-scale", ".2"), ("--std", "1", "0", "1")]
)
def test_numbers_of_images_that_are_none_are_refused(run: Path, words: tuple[str, ...]) -> None:
    assert run_eval("linear", run, *words) != 0


def test_semi_learns_from_the_chosen_labels_alone(
    run: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_eval("semi", run, "--epochs", "2") == 0
    line = last_line(run)
    assert line["train_images"] == 2 and line["val_images"] == 12 and line["fraction"] == 0.01
    assert 0 <= line["semi_top1"] <= 1 and "2 of 40 labels" in capsys.readouterr().out
    names = [path.name for path in sorted((toy / "train").rglob("*.jpg"))[::5]]
    (tmp_path / "list.txt").write_text("\n".join(names))
    assert run_eval("semi", run, "--epochs", "1", "--list", str(tmp_path / "list.txt")) == 0
    line = last_line(run)
    assert line["train_images"] == 8 and line["lr"] == 0.01 * 8 / 256


def test_finetune_moves_what_it_says(run: Path, tmp_path: Path) -> None:
    kept = {}
    for lr in ("0", "0.05"):
        flags = ("--epochs", "1", "--batch-size", "20", "--lr", lr, "--save", str(tmp_path / lr))
        assert run_eval("finetune", run, *flags) == 0
        kept[lr] = torch.load(tmp_path / lr, weights_only=True)
    assert kept["0"]["classes"] == ["class0", "class1"] and last_line(run)["weights"] == "run"
    state = checkpoint.load(checkpoint.find(run)[0])["method"]
    for lr, weights in ((lr, kept[lr]["weights"]) for lr in kept):
        assert weights["head.bias"].abs().max() > 0
        moved = [n for n in weights if n.startswith("backbone.") and weights[n].ne(state[n]).any()]
        assert bool(moved) is (lr != "0")
    assert any("running_mean" in n for n in moved) and any(n.endswith("weight") for n in moved)


def test_finetune_learns_colours_on_other_data(run: Path, tmp_path: Path) -> None:
    toy_images(tmp_path / "other", "train", 32)
    toy_images(tmp_path / "other", "val", 20)
    flags = ("--data", f"folder:{tmp_path / 'other'}", "--epochs", "12", "--batch-size", "16")
    assert run_eval("finetune", run, *flags, "--weights", "random", "--lr", "0.1") == 0
    line = last_line(run)
    assert line["finetune_top1"] >= 0.9 and line["weights"] == "random"
    assert (line["train_images"], line["val_images"]) == (32, 20)


def test_a_run_of_some_classes_is_scored_on_data_with_others(
    toy: Path, tmp_path: Path, run: Path
) -> None:
    """Its list of classes is for its own data; another may be given."""
    (tmp_path / "one.txt").write_text("class0\n")
    trained = tmp_path / "runs/one"
    shutil.copytree(run, trained)
    state = checkpoint.load(checkpoint.find(trained)[0])
    state["config"]["classes"] = str(tmp_path / "one.txt")
    rest = {name: value for name, value in state.items() if name not in ("format", "step")}
    checkpoint.save(trained / "checkpoints", 2, rest, keep=1)
    assert run_eval("knn", trained, "--k", "5") == 0
    assert (last_line(trained)["train_images"], last_line(trained)["val_images"]) == (20, 6)
    toy_images(tmp_path / "other", "train", 8)
    toy_images(tmp_path / "other", "val", 4)
    for name in ("train", "val"):
        (tmp_path / "other" / name / "class0").rename(tmp_path / "other" / name / "rose")
    data = ("--k", "4", "--data", f"folder:{tmp_path / 'other'}")
    assert run_eval("knn", trained, *data) == 0
    assert last_line(trained)["train_images"] == 8 and "classes" not in last_line(trained)
    (tmp_path / "rose.txt").write_text("rose\n")
    assert run_eval("knn", trained, *data, "--classes", str(tmp_path / "rose.txt")) == 0
    assert last_line(trained)["train_images"] == 4


def test_classes_that_only_one_set_has(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy_images(tmp_path, "train", 8)
    toy_images(tmp_path, "val", 8)
    data = ("--data", f"folder:{tmp_path}", "--k", "3")
    shutil.rmtree(tmp_path / "val/class1")
    assert run_eval("knn", run, *data) == 0
    assert "no image of 'class1'" in capsys.readouterr().out
    toy_images(tmp_path, "val", 8)
    shutil.rmtree(tmp_path / "train/class1")
    assert run_eval("knn", run, *data) == 2
    said = capsys.readouterr().err
    assert "--val-data" in said and "class1" in said and "Traceback" not in said


def test_a_split_without_labels(
    run: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (toy / "val").rglob("*.jpg"):
        shutil.copy(file, tmp_path / f"{file.parent.name}-{file.name}")
    for name in ("knn", "linear", "semi", "finetune"):
        assert run_eval(name, run, "--val-data", f"folder:{tmp_path}") == 2
        assert "--val-data has no labels" in capsys.readouterr().err


def test_a_list_that_lacks_a_class_of_the_validation_images(
    run: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [path.name for path in sorted((toy / "train/class0").glob("*.jpg"))]
    (tmp_path / "list.txt").write_text("\n".join(names))
    assert run_eval("semi", run, "--list", str(tmp_path / "list.txt")) == 2
    said = capsys.readouterr().err
    assert "'class1'" in said and f"--list {tmp_path / 'list.txt'}: of the images" in said


def test_weights_of_another_backbone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = checkpoint.load(checkpoint.find(run)[0])
    state["config"]["backbone"] = "resnet18"
    rest = {name: value for name, value in state.items() if name not in ("format", "step")}
    path = checkpoint.save(tmp_path, 2, rest, keep=1)
    assert run_eval("knn", run, "--k", "5", "--checkpoint", str(path)) == 2
    said = capsys.readouterr().err
    assert "does not fit --backbone resnet18" in said and "512" in said


@pytest.mark.parametrize(
    ("name", "flags", "named"),
    [
        ("semi", ("--fraction", "0"), "--fraction"),
        ("semi", ("--list", "nowhere.txt"), "--list nowhere.txt"),
        ("finetune", ("--optimizer", "sdg"), "--optimizer sdg"),
        ("finetune", ("--schedule", "step"), "--milestones"),
        ("finetune", ("--epochs", "0"), "--epochs"),
        ("finetune", ("--epochs", "1", "--lr", "1e38"), "lower --lr and --head-lr"),
        ("finetune", ("--factor", "0.5"), "--factor"),
        ("finetune", ("--optimizer", "adamw", "--momentum", "0.8"), "--momentum: adamw"),
        ("semi", ("--fraction", "0.1", "--list", "nowhere.txt"), "--fraction and --list"),
        ("linear", ("--crop-scale", "0.5", "0.1"), "--crop-scale"),
    ],
)
def test_bad_requests_are_one_line(
    run: Path, name: str, flags: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_eval(name, run, *flags) == 2
    said = capsys.readouterr().err
    assert named in said and "Traceback" not in said


# --- one process and two -------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_score_as_one(run: Path, tmp_path: Path) -> None:
    """Class scores of every validation image, each once, in the order of the rows."""
    alone = numbers_of(run)
    for many in in_group(2, tmp_path, numbers_of, run):
        for name in COMMANDS:
            for one, other in zip(alone[name], many[name], strict=True):
                torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-3)
    assert {len(rows) for rows in alone["knn"]} == {12}
