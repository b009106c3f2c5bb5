"""Several data sets in a run: repeated flags, YAML lists, weights, resume, scores, tools."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from runs import SMALL, TINY, run_main, run_train

import eval as eval_command
from tools import write_ffcv
from tools.config.cli import parse
from tools.config.config import Config
from tools.config.data_sets import sum_repeated
from tools.config.preflight import preflight
from tools.diagnostics.data import check_data
from tools.exporting.card import data_name
from tools.runs.metrics import read_metrics
from tools.runs.run_dir import default_name


@pytest.mark.parametrize(
    ("words", "joined"),
    [
        ("--data a --data b --seed 1", ["--data=a + b", "--seed", "1"]),
        (
            "--seed 1 --data=a --val-data x --data b",
            ["--seed", "1", "--data=a + b", "--val-data=x"],
        ),
        ("--val_data x --val-data=y", ["--val-data=x + y"]),
        ("--seed 1", ["--seed", "1"]),
        ("--data", ["--data"]),
        ("--data-weights 1 2", ["--data-weights", "1", "2"]),
    ],
)
def test_repeated_flags_are_one_sum(words: str, joined: list[str]) -> None:
    assert sum_repeated(words.split()) == joined


def test_a_second_data_set_needs_its_own_flag() -> None:
    with pytest.raises(ValueError, match=r"as in --data a\.beton --data b\.beton; a pattern"):
        parse(["--seed", "1", "--data", "a.beton", "b.beton", "c.beton"])
    assert parse(["--data", "a.beton", "--val-data", "b.beton"]).val_data == "b.beton"


def test_keys_of_one_data_set_of_several_are_taken_by_the_writer() -> None:
    found = write_ffcv.Arguments("folder:a + wds:b.tar", "out.beton", image_key="x", label_key="y")
    assert (found.image_key, found.label_key) == ("x", "y")
    with pytest.raises(ValueError, match="--label-key is for SOURCE wds:PATTERN"):
        write_ffcv.Arguments("folder:a + b.beton", "out.beton", label_key="y")


def test_flags_yaml_and_saved_settings_agree(tmp_path: Path) -> None:
    recipe = tmp_path / "two.yaml"
    recipe.write_text("data: [folder:a, b.beton]\nval-data: [folder:c]\ndata-weights: [1, 2]\n")
    settings = parse(["--recipe", str(recipe)])
    assert (settings.data, settings.val_data) == ("folder:a + b.beton", "folder:c")
    assert settings.data_weights == (1, 2)
    flags = parse(["--recipe", str(recipe), "--data", "photos", "--data", "cifar10"])
    assert flags.data == "photos + cifar10"  # a recipe's are replaced


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"data_weights": (1, 2)}, "--data-weights 1 2: 2 weights for 1 data set of --data"),
        ({"data": "photos + cifar10", "data_weights": (0, 0)}, "one must be above 0"),
        ({"data_weights": (1,)}, "one data set needs no weight"),
        (
            {"data": "photos + cifar10", "data_weights": (1, 2), "order": "blocks"},
            "it needs --order random",
        ),
        (
            {"data": "photos + cifar10", "data_weights": (1, 2), "balance": "class"},
            "--data-weights 1 2 and --balance class both say",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        preflight(Config(**settings))


def test_names_are_those_of_all_parts() -> None:
    config = Config(data="folder:/x/cats + /y/train.beton", method="moco")
    assert default_name(config) == "moco-none-cats+train"
    assert data_name(config.data) == "folder:cats + train.beton"


@pytest.fixture(scope="module")
def lists(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The toy images in two data sets: a list of half of them, and a .beton of the others."""
    root = tmp_path_factory.mktemp("lists")
    files = sorted((toy / "train").rglob("*.*"))
    for name, chosen in (("train", files[::2]), ("other", files[1::2])):
        lines = [f"{file}\t{file.parent.name}" for file in chosen]
        (root / f"{name}.txt").write_text("\n".join(lines))
    other = root / "other.beton"
    assert write_ffcv.main([f"list:{root}/other.txt", str(other), "--keep-jpeg"]) == 0
    return [f"list:{root}/train.txt", str(other)]


def test_a_run_on_two_data_sets_is_resumed_and_scored(
    lists: list[str], toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ffcv")
    flags = ["--method", "simclr", "--mix", "unmix", *TINY, *SMALL["simclr"], "--loader", "ffcv"]
    flags += [word for spec in lists for word in ("--data", spec)]
    flags += ["--val-data", f"folder:{toy}/val", "--epochs", "1", "--output", str(tmp_path)]
    weights = ["--data-weights", "3", "1"]
    assert run_train(*flags, *weights, "--name", "whole") == 0
    assert run_train(*flags, *weights, "--name", "half", "--limit-steps", "1") == 0
    assert run_train(*flags, *weights, "--name", "half", "--resume", "auto") == 0
    losses = [
        [line["loss"] for line in read_metrics(tmp_path / name / "metrics.jsonl") if "loss" in line]
        for name in ("whole", "half")
    ]
    assert losses[0] == losses[1]
    saved = yaml.safe_load((tmp_path / "whole" / "config.yaml").read_text())
    assert saved["data"] == " + ".join(lists)
    assert saved["data_weights"] == [3, 1]
    capsys.readouterr()
    assert run_train(*flags, "--data-weights", "1", "1", "--name", "half", "--resume", "auto") == 2
    assert "--data-weights: (3.0, 1.0) -> (1.0, 1.0)" in capsys.readouterr().err
    out, run = tmp_path / "features.npz", str(tmp_path / "whole")
    data = [word for spec in lists for word in ("--data", spec)]
    assert run_main(eval_command.main, "embed", run, str(out), *data) == 0
    assert len(np.load(out)["names"]) == 40


def test_tools_take_several_data_sets(lists: list[str], tmp_path: Path) -> None:
    spec = " + ".join(lists)
    out = tmp_path / "all.beton"
    assert write_ffcv.main([spec, str(out), "--keep-jpeg"]) == 0
    assert write_ffcv.main(["--verify", str(out)]) == 0
    report = check_data(spec, deep=True)
    assert not report.problems
    assert any("20 images" in line for line in report.lines)
    assert any(line.startswith("40 of 40 images decode") for line in report.lines)
