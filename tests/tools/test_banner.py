"""What a run prints before its first step, what a refused one leaves, and extended runs."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from launch_cases import flags
from runs import lines, run_train, skip_pictures

from pipelines.data_facts import DATASETS
from pipelines.datasets import open_data
from pipelines.sources.arrays import Arrays
from pipelines.sources.table import Table
from pipelines.system.units import counted
from tools.config.config import Config
from tools.config.resolve import resolve
from tools.diagnostics import checks
from tools.engine import banner, memory, train_state, trainer
from tools.engine.data import Data
from tools.engine.online_knn import OnlineKnn, why_off
from tools.evaluation.opening import no_images_to_score


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_pictures(monkeypatch)


def test_a_run_begins_with_what_it_is(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--limit-steps", "3", "--log-every", "1000")
    assert run_train(*flags(toy, tmp_path, "moco", "--mix", "region", *more)) == 0
    said = capsys.readouterr().out.splitlines()
    head = dict(line.split(maxsplit=1) for line in said[:9])
    about = ("data", "images", "learner", "views", "training", "device", "memory", "folder", "stop")
    assert tuple(head) == about
    assert str(toy) in head["data"] and head["folder"] == str(tmp_path / "run")
    assert head["images"] == "40 for training in 2 classes, 12 for kNN"
    assert head["learner"].startswith("moco, mixture region; test_resnet, 0.")
    assert head["views"] == "2 of 16 px"
    assert head["training"].startswith("4 epochs of 2 steps, 8 steps in all, of which this run")
    assert head["device"] == "cpu, 1 process, precision no"
    assert head["memory"] == "--loader memory holds at most 0.0 MiB decoded: all 40 images"
    assert head["stop"].endswith(f"--resume {tmp_path / 'run'} continues")
    notes = [line for line in said if line.startswith("note: ")]
    assert any(line.startswith("note: --moco.queue 64: of 40 images") for line in notes)
    shown = [line for line in said if line.startswith("epoch ")]
    assert shown[0].startswith("epoch 1/2  step 1/3  loss ")  # the first step, whatever the rhythm
    assert shown[1].startswith("epoch 1/2  step 2/3  loss ")
    assert [line["step"] for line in lines(tmp_path / "run")] == [2, 3]


def images(*label: int) -> Table:
    """A table of small images with these labels."""
    side = np.full(len(label), 4, np.int32)
    pixels = np.zeros((len(label), 4, 4, 3), np.uint8)
    return Table(np.array(label, np.int64), side, side, Arrays("toy", pixels))


FACTS = DATASETS["photos"]


@pytest.mark.parametrize(
    ("train", "val", "text", "why"),
    [
        ((0, 0, 0), (0,), "3 for training in 1 class, 1 for kNN", None),
        ((0, 1), None, "2 for training in 2 classes, no validation", "--val-fraction 0.1"),
        ((0, 1), (-1,), "2 for training in 2 classes, 1 for", "validation images have no labels"),
        ((-1, -1), None, "2 for training without labels, no", "training images have no labels"),
        ((-1, -1), (0,), "2 for training without labels, 1", "training images have no labels"),
    ],
)
def test_images_are_counted_and_the_way_to_a_score_is_named(
    train: tuple[int, ...], val: tuple[int, ...] | None, text: str, why: str | None
) -> None:
    data = Data(images(*train), None if val is None else images(*val), FACTS)
    assert banner.describe_images(data).startswith(text)
    assert (why is None) == ((found := why_off(Config(), data)) is None)
    assert why is None or why in str(found)


@pytest.mark.parametrize(
    ("spec", "way"),
    [
        ("wds:a.tar", "a member .cls, a field of .json, or what --label-key names, gives them"),
        ("list:a.txt", "a second word of each line gives them"),
        ("folder:a + wds:b.tar", "class folders give them"),
    ],
)
def test_what_gives_labels_depends_on_the_data(spec: str, way: str) -> None:
    why = why_off(Config(data=spec), Data(images(-1), None, FACTS))
    assert why == f"the training images have no labels ({way})"


def test_nouns_are_counted() -> None:
    nouns = {"epoch": "epochs", "class": "classes", "batch": "batches", "image": "images"}
    for one, many in nouns.items():
        assert (counted(1, one), counted(2_000, one)) == (f"1 {one}", f"2,000 {many}")


@pytest.mark.parametrize(("label", "way"), [(0, "train.py --val-fraction"), (-1, "no labels")])
def test_an_evaluation_without_images_to_score_leads_on(label: int, way: str) -> None:
    refusal = no_images_to_score(images(label))
    assert way in refusal and "--val-data" in refusal


@pytest.mark.parametrize(
    ("resume", "checkpoint", "step", "text"),
    [
        ("auto", None, 0, "no run to continue: this is a new one"),
        (None, None, 0, ""),
        ("auto", "step-0.pt", 0, ""),
        ("auto", "step-3.pt", 3, "resumed at step 3"),
        ("runs/a", "step-1000.pt", 1000, "is finished: --epochs above 100 trains on"),
    ],
)
def test_a_resume_that_has_nothing_to_do_says_so(
    resume: str | None, checkpoint: str | None, step: int, text: str
) -> None:
    config = resolve(Config(resume=resume), FACTS, "no")
    path = checkpoint and Path(checkpoint)
    state = SimpleNamespace(folder="runs/a", epochs_before=config.epochs, last_good=path)
    said = banner.resumed(config, cast(Any, state), 10, step)
    assert text in said[-1] if text else said == []


def test_the_demonstration_says_that_it_is_one() -> None:
    assert "17 photographs" in banner.DEMONSTRATION and "--data" in banner.DEMONSTRATION


def test_a_plan_has_the_same_notes_and_one_on_the_memory_of_the_gpu(
    toy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert memory.of_gpu(torch.device("cpu")) is None
    monkeypatch.setattr(memory, "of_gpu", lambda device: 1 << 10)
    assert run_train(*flags(toy, tmp_path, "moco", "--dry-run", "--workers", "10000")) == 0
    said = capsys.readouterr().out
    assert "note: --workers 10000 are threads of each process, which has " in said
    assert "note: --moco.queue 64: of 40 images" in said and not (tmp_path / "run").exists()
    assert "note: the GPU has 0.00 GiB: a smaller --batch-size, --accumulate, " in said


def test_a_run_that_fails_before_its_first_line_leaves_nothing(
    toy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its name is free for the next attempt; a folder that was there before stays."""

    def score(self: OnlineKnn) -> dict[str, float]:
        raise ValueError("a validation image is damaged")

    start = flags(toy, tmp_path, "simclr", "--limit-steps", "1")
    with monkeypatch.context() as patch:
        patch.setattr(OnlineKnn, "score", score)
        assert run_train(*start, "--knn-every", "1") == 2
        assert "is damaged" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "mine.txt").touch()
        assert run_train(*start, "--knn-every", "1") == 2
        assert (tmp_path / "run" / "mine.txt").exists()
        (tmp_path / "run" / "config.yaml").unlink()
    assert run_train(*start) == 0
    assert run_train(*start, "--resume", "auto", "--seed", "5") == 2  # refused, and not removed
    assert [line["step"] for line in lines(tmp_path / "run")] == [1]


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of each file of a run, but for the lock, which names the process."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path): path.read_bytes() for path in files}


def test_a_finished_run_is_extended_and_says_what_the_schedule_becomes(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = flags(toy, tmp_path, "simclr", "--epochs", "1")
    assert run_train(*start) == 0
    assert "--epochs" not in capsys.readouterr().out
    assert run_train(*start, "--epochs", "4", "--limit-steps", "3", "--resume", "auto") == 0
    said = capsys.readouterr().out
    assert "--epochs: 1 -> 4: the run was finished; the schedule now ends at step 8" in said
    rates = [line["lr"] for line in lines(tmp_path / "run")]
    assert len(rates) == 3 and rates[2] > rates[1]  # four epochs' cosine has hardly fallen
    kept = contents(tmp_path / "run")
    assert run_train(*start, "--resume", "auto") == 0
    assert "--epochs: 4 -> 1: nothing is left to train, 3 of 2 steps" in capsys.readouterr().out
    assert contents(tmp_path / "run") == kept


def test_what_other_epochs_do_to_the_rate() -> None:
    config = dataclasses.replace(Config(method="simclr"), lr=1.0, warmup_epochs=0.0, epochs=20)
    resolved = resolve(config, DATASETS["photos"], "no")
    assert trainer.schedule_change(resolved, 20, 50, 10) is None
    text = trainer.schedule_change(resolved, 10, 50, 10)
    now, before = ((1 + math.cos(math.pi * done)) / 2 for done in (50 / 200, 50 / 100))
    assert text == (
        "--epochs: 10 -> 20: the schedule now ends at step 200; the learning rate of the next step "
        f"is {now:.2e} instead of {before:.2e}"
    )


@pytest.mark.parametrize(
    ("minutes", "passed", "saved"),
    [(30, 4, [10]), (30, 6, [1, 10]), (2, 3, [1, 10]), (0, 99, [10])],
)
def test_the_first_checkpoint_comes_within_five_minutes(
    toy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    minutes: float,
    passed: float,
    saved: list[int],
) -> None:
    """All the time passes before the first step ends; then the usual rhythm counts."""
    now = iter([0.0, *[60.0 * passed] * 99])
    init = train_state.TrainState.__init__
    monkeypatch.setattr(
        train_state.TrainState,
        "__init__",
        lambda self, *args: init(self, *args, clock=lambda: next(now)),
    )
    more = ("--epochs", "5", "--keep-checkpoints", "9", "--checkpoint-minutes", str(minutes))
    assert run_train(*flags(toy, tmp_path, "simclr", *more, "--log-every", "50")) == 0
    kept = {path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")}
    assert kept == {f"step-{step}.pt" for step in saved}


def test_decoded_images_that_do_not_fit_into_the_memory_are_noted(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 20 x 20 pixels: 48,000 bytes for training, 14,400 for the scores, on each process."""
    train, val = (open_data(f"folder:{toy}", Path(), split) for split in ("train", "val"))
    data = Data(train, val, FACTS)
    monkeypatch.setattr(checks, "memory", lambda: 62_500 / 2**30)
    assert memory.notes(Config(), data) == []
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert memory.notes(Config(), data) == [
        "note: --loader memory decodes 52 images into 124.8 kB of this machine's memory (2 "
        "processes, 62.4 kB each), and 62.5 kB are available: --loader ffcv and --loader dali "
        "decode while training"
    ]
    (line,) = memory.notes(Config(loader="memory", knn_every=0), data)
    assert "decodes 40 images into 96.0 kB" in line
    assert memory.notes(Config(loader="ffcv"), data) == []
    monkeypatch.setattr(checks, "memory", lambda: 0.0)
    assert memory.notes(Config(), Data(images(0, 1), None, FACTS)) == []  # they are there already
