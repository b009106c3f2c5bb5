"""--subset and --val-fraction: the same images for every seed, in training and in scores."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml
from accelerate import Accelerator
from runs import SMALL, TINY, run_main, run_train

import eval as eval_command
from pipelines.beton.convert import Settings, convert
from pipelines.sources.arrays import Arrays
from pipelines.sources.folder import scan
from pipelines.sources.subset import divide, hold_out, take_subset
from pipelines.sources.table import Table
from tools.config.config import Config
from tools.config.preflight import preflight
from tools.engine.data import open_data_of
from tools.evaluation.base import ImageFlags
from tools.evaluation.opening import with_data
from tools.runs.metrics import read_metrics


def table_of(counts: list[int], unlabelled: int = 0) -> Table:
    """Shuffled rows with so many of each class."""
    label = np.repeat(np.arange(-1, len(counts)), [unlabelled, *counts])
    np.random.default_rng(0).shuffle(label)
    side = np.full(len(label), 1, np.int32)
    images = np.arange(3 * len(label)).reshape(-1, 1, 1, 3).astype(np.uint8)
    classes = tuple("abcdef"[: len(counts)])
    return Table(label, side, side, Arrays("rows", images), classes)


def counts_of(table: Table) -> dict[int, int]:
    return dict(
        zip(*map(np.ndarray.tolist, np.unique(table.label, return_counts=True)), strict=True)
    )


def rows_of(table: Table) -> list[tuple[int, ...]]:
    return [tuple(table.source.pixels(row).ravel().tolist()) for row in range(len(table))]


def test_every_class_gives_its_share() -> None:
    table = table_of([40, 30, 5, 1], unlabelled=20)
    assert counts_of(take_subset(table, 0.1, 0)) == {-1: 2, 0: 4, 1: 3, 2: 1, 3: 1}
    assert counts_of(take_subset(table, 0.3, 0)) == {-1: 6, 0: 12, 1: 9, 2: 2, 3: 1}
    assert rows_of(take_subset(table, 1.0, 0)) == rows_of(table)


def test_every_class_gives_the_same_number() -> None:
    assert counts_of(take_subset(table_of([40, 30, 5]), 5.0, 0)) == {0: 5, 1: 5, 2: 5}


def test_unlabelled_images_give_a_share() -> None:
    table = table_of([], unlabelled=50)
    kept = take_subset(table, 0.2, 0)
    assert counts_of(kept) == {-1: 10}
    with pytest.raises(ValueError, match=r"--subset 5 .* 50 images have no label"):
        take_subset(table, 5.0, 0)


def test_a_class_with_fewer_images_is_named() -> None:
    with pytest.raises(ValueError, match="--subset 6: class 'b' has 5 images"):
        take_subset(table_of([6, 5, 9]), 6.0, 0)
    empty = Table(
        np.zeros(6, np.int64), *[np.ones(6, np.int32)] * 2, table_of([6]).source, ("a", "b")
    )
    with pytest.raises(ValueError, match="class 'b' has 0 images"):
        take_subset(empty, 2.0, 0)


def test_the_choice_depends_on_labels_and_seed_alone() -> None:
    table = table_of([40, 30])
    kept = take_subset(table, 10.0, 3)
    assert rows_of(kept) == rows_of(take_subset(table, 10.0, 3))
    assert rows_of(kept) != rows_of(take_subset(table, 10.0, 4))
    assert set(rows_of(kept)) < set(rows_of(take_subset(table, 20.0, 3)))
    assert set(rows_of(kept)) < set(rows_of(table))
    order = [rows_of(table).index(row) for row in rows_of(kept)]
    assert order == sorted(order)


def flags(toy: Path, output: Path, *more: str) -> tuple[str, ...]:
    where = ("--data", f"folder:{toy}", "--output", str(output), "--name", "run")
    return ("--method", "simclr", *TINY, *SMALL["simclr"], *where, *more)


def test_a_run_trains_and_is_scored_on_its_subset(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subset = ("--subset", "9", "--subset-seed", "4")
    begun = flags(toy, tmp_path, *subset, "--limit-steps", "1")
    assert run_train(*begun) == 0
    run = tmp_path / "run"
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert (settings["subset"], settings["subset_seed"], settings["epochs"]) == (9, 4, 4)
    assert read_metrics(run / "metrics.jsonl")[-1]["epoch"] == 1  # 18 images, batches of 16
    assert "for 18 images" in capsys.readouterr().out
    for change in (("--subset", "10"), ("--subset-seed", "5"), ("--subset", "None")):
        given = dict(zip(subset[::2], subset[1::2], strict=True)) | {change[0]: change[1]}
        if change[1] == "None":
            del given["--subset-seed"]
        words = [word for pair in given.items() for word in pair]
        assert run_train(*flags(toy, tmp_path, *words, "--resume", "auto")) == 2
        assert f"{change[0]}: " in capsys.readouterr().err
    assert run_train(*begun[:-1], "2", "--resume", "auto") == 0

    def scored(*words: str) -> dict[str, object]:
        assert run_main(eval_command.main, "knn", "--run", str(run), "--k", "5", *words) == 0
        return read_metrics(run / "eval.jsonl")[-1]

    own, every = scored(), scored("--subset", "1")
    assert (own["train_images"], own["val_images"]) == (18, 12)
    assert (own["subset"], own["subset_seed"]) == (9, 4)
    assert every["train_images"] == 40
    other = scored("--data", f"folder:{toy / 'val'}", "--val-data", f"folder:{toy}")
    assert other["train_images"] == 12 and "subset" not in other


def test_dry_run_counts_the_steps_of_the_subset(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_train(*flags(toy, tmp_path, "--subset", "0.85", "--dry-run")) == 0
    said = capsys.readouterr().out
    assert "subset: 0.85" in said and "steps: 2 an epoch" in said
    assert run_train(*flags(toy, tmp_path, "--subset", "0.75", "--dry-run")) == 0
    assert "steps: 1 an epoch" in capsys.readouterr().out


REFUSED = {
    "--subset 21": "class 'class0' has 20 images",
    "--subset 1.5": "--subset 1.5 must be a share",
    "--subset 0": "--subset",
    "--subset nan": "--subset",
    "--subset-seed 1": "--subset-seed needs --subset",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_no_subset_is_refused_by_name(
    words: str, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_train(*flags(toy, tmp_path, *words.split(), "--dry-run")) == 2
    assert REFUSED[words] in capsys.readouterr().err


def test_a_share_of_each_class_is_held_out() -> None:
    table = table_of([40, 30, 1, 2], unlabelled=5)
    train, val = hold_out(table, 0.1, 0)
    assert counts_of(val) == {0: 4, 1: 3, 3: 1}  # the class of one image is trained on
    assert counts_of(train) == {-1: 5, 0: 36, 1: 27, 2: 1, 3: 1}
    assert train.classes == val.classes == table.classes
    assert sorted(rows_of(train) + rows_of(val)) == sorted(rows_of(table))


def test_what_is_held_out_is_a_function_of_the_seed() -> None:
    table = table_of([40, 30])
    first = rows_of(hold_out(table, 0.2, 0)[1])
    assert first == rows_of(hold_out(table, 0.2, 0)[1])
    assert first != rows_of(hold_out(table, 0.2, 1)[1])
    assert set(rows_of(hold_out(table, 0.1, 0)[1])) < set(first)


def test_a_subset_is_taken_of_what_is_trained_on() -> None:
    choice = Config(data="photos", val_fraction=0.2, subset=0.5)
    train, val = divide(table_of([40, 30]), choice)
    assert val is not None
    assert counts_of(val) == {0: 8, 1: 6}
    assert counts_of(train) == {0: 16, 1: 12}
    assert not set(rows_of(train)) & set(rows_of(val))


def test_labels_are_needed_to_hold_out() -> None:
    with pytest.raises(ValueError, match=r"--val-fraction 0\.1 needs class folders"):
        hold_out(table_of([], unlabelled=5), 0.1, 0)
    with pytest.raises(ValueError, match="no class has two images"):
        hold_out(table_of([1, 1]), 0.1, 0)
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match=r"--val-fraction must be above 0 and below 1"):
            Config(val_fraction=share)


@pytest.mark.parametrize("loader", ["memory", "ffcv", "dali"])
def test_a_run_and_its_scores_share_the_split(toy: Path, loader: str) -> None:
    config = Config(data=f"folder:{toy}/train", val_fraction=0.25, loader=loader)
    data = open_data_of(config, Accelerator(cpu=True))
    again = open_data_of(dataclasses.replace(config, loader="memory"), Accelerator(cpu=True))
    assert data.val is not None and again.val is not None
    assert len(data.val) == 10 and len(data.train) == 30
    for one, other in ((data.train, again.train), (data.val, again.val)):
        assert one.label.tolist() == other.label.tolist()
        assert np.array_equal(one.height, other.height)
    assert data.val.classes == data.train.classes


def test_two_sources_of_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="leave out --val-data"):
        preflight(Config(data="photos", val_fraction=0.1, val_data="photos"))


def test_a_beton_is_divided_as_its_folder(toy: Path, tmp_path: Path) -> None:
    convert(scan(toy / "train", tmp_path, "stop"), tmp_path / "a.beton", Settings(keep_jpeg=True))
    specs = (f"folder:{toy}/train", str(tmp_path / "a.beton"))
    one, other = (
        open_data_of(Config(data=spec, val_fraction=0.25, loader="ffcv"), Accelerator(cpu=True))
        for spec in specs
    )
    assert one.val is not None and other.val is not None
    assert one.val.label.tolist() == other.val.label.tolist()
    for row in (0, 9):
        assert np.array_equal(one.val.source.pixels(row), other.val.source.pixels(row))


def test_scores_on_other_data_hold_nothing_out() -> None:
    run = Config(data="photos", val_fraction=0.1)
    assert with_data(run, ImageFlags(data="cifar10")).val_fraction is None
    assert with_data(run, ImageFlags(workers=2)).val_fraction == 0.1
