"""``--aug.*``, ``--crops`` alone and ``--balance``: tools.config.augment and its neighbours."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from launch_cases import flags
from runs import lines, run_train

from pipelines.data_facts import DATASETS, IMAGENET
from pipelines.presets import PRESETS
from tools.benchmarks.torchvision_views import torchvision_view
from tools.config.augment import AugConfig
from tools.config.cli import differences, from_dict, from_saved, parse, to_dict
from tools.config.config import ResolvedConfig
from tools.config.resolve import check, resolve, resolved
from tools.config.view_plan import base_views


def config_of(*words: str, method: str = "byol") -> ResolvedConfig:
    return resolve(parse(["--method", method, *words]), IMAGENET, "no")


def test_flags_replace_the_preset_s_numbers_and_leave_the_others() -> None:
    plain = PRESETS["byol"](224)
    views = base_views(
        config_of(
            *("--aug.flip", "0", "--aug.rotate90", "1", "--aug.blur-sigma", "0.5", "1"),
            *("--aug.views", "1.solarize=0.4", "0-1.jitter=0.1,0.2,0.3,0.05", "1.vertical-flip=1"),
        )
    )
    for number, (view, before) in enumerate(zip(views, plain, strict=True)):
        assert (view.flip, view.rotate90, view.blur_sigma) == (0, 1, (0.5, 1))
        assert view.jitter == (0.1, 0.2, 0.3, 0.05)
        assert (view.solarize, view.vertical_flip) == ((before.solarize, 0), (0.4, 1))[number]
        assert (view.blur, view.scale, view.gray) == (before.blur, before.scale, before.gray)
    assert base_views(config_of()) == plain


def test_yaml_holds_them_for_all_views_and_by_view() -> None:
    numbers: dict[str, Any] = {"flip": 0.1, "views": {1: {"solarize": 0.4}, "0-1": {"blur": 0}}}
    given = from_dict({"method": "byol", "aug": numbers}, "a recipe")
    words = ["--aug.flip=.1", "--aug.views", "1.solarize=0.4", "0-1.blur=0"]
    assert given == parse(["--method", "byol", *words])
    with pytest.raises(ValueError, match=r"a recipe: 'aug\.views\.1' must hold numbers by name"):
        from_dict({"aug": {"views": {1: 0.4}}}, "a recipe")


def test_they_belong_to_the_run() -> None:
    """They are saved, they differ, and a run from before them has none."""
    plain, own = config_of(), config_of("--aug.scale", "0.3", "1", "--balance", "class")
    assert "aug" not in to_dict(plain)
    assert resolved(from_saved(to_dict(own), "a run")) == own
    assert differences(own, plain) == [
        "--balance: None -> class",
        "--aug.scale: None -> (0.3, 1.0)",
    ]
    old = {k: v for k, v in to_dict(plain).items() if k != "balance"}
    assert resolved(from_saved(old, "a run")) == plain


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("--aug.flip 2", "--aug.flip must be at least 0 and at most 1, not 2"),
        ("--aug.scale 1 .2", "--aug.scale 1 0.2: the smaller number comes first"),
        ("--aug.jitter .4 .4 .4 .9", "--aug.jitter 0.4 0.4 0.4 0.9: the last, hue"),
        ("--aug.views 1.blur=3", "--aug.views 1.blur must be at least 0 and at most 1"),
        ("--aug.views 1.blurr=0", "--aug.views 1.blurr=0: choose from scale ratio flip"),
        ("--aug.views blur=0", "write VIEW.NAME=NUMBER, as 1.solarize=0.2"),
        ("--aug.views 1-0.blur=0", "the smaller number comes first"),
        ("--aug.views 1.blur=x", "blur takes a number"),
        ("--aug.views 1.blur=", "blur takes a number"),
        ("--aug.views 1.ratio=1", "ratio takes 2 numbers, with commas"),
        ("--aug.views 0-2.blur=0", "--aug.views 0-2.blur=0: the views of the run are 0 to 1"),
        ("--crops 2 6 --aug.scale .2 1", "use --crop-scales, or --aug.views"),
        ("--balance class --order blocks", "it needs --order random"),
        ("--crops 2 6 --crop-sizes 224 96", "needs --crop-scales, a smallest and a largest"),
        ("--crops 2 6 --crop-scales .2 1 .1 .2", "--crops 2 6 needs --crop-sizes, 2 in all, not 0"),
        ("--crops 2 6 --crop-sizes 96 --crop-scales .2 1 .1 .2", "2 in all, not 1"),
        ("--crops 2 6 --crop-sizes 224 96 --crop-scales .2 1", "4 in all, not 2"),
        ("--crops 1 2 3", "so --crop-sizes and --crop-scales are needed"),
        ("--crop-sizes 96", "--crop-sizes needs --crops"),
        ("--crop-scales .2 1", "--crop-scales needs --crops"),
    ],
)
def test_wrong_words_are_refused_by_flag(words: str, wrong: str) -> None:
    with pytest.raises(ValueError) as error:
        base_views(config_of(*words.split()))
    assert wrong in str(error.value)


@pytest.mark.parametrize(
    ("given", "count"), [({"jitter": (0.4, 0.4, 0.4)}, 4), ({"scale": 0.5}, 2)]
)
def test_a_wrong_count_of_numbers_is_refused(given: dict[str, Any], count: int) -> None:
    with pytest.raises(ValueError, match=rf"--aug\.{next(iter(given))} takes {count} numbers"):
        AugConfig(**given).check()


@pytest.mark.parametrize(("data", "sides"), [("imagenet", (224, 96)), ("cifar10", (32, 14))])
def test_two_counts_alone_take_swav_s_sizes_and_scales(data: str, sides: tuple[int, int]) -> None:
    facts = DATASETS.get(data, IMAGENET)
    config = resolve(parse(["--method", "swav", "--crops", "2", "6"]), facts, "no")
    assert config.crop_sizes == sides and config.crop_scales == (0.14, 1, 0.05, 0.14)
    views = base_views(config)
    assert [view.size for view in views] == [sides[0]] * 2 + [sides[1]] * 6
    assert [view.scale for view in views] == [(0.14, 1)] * 2 + [(0.05, 0.14)] * 6
    if data == "imagenet":
        assert views == PRESETS["swav"](224)


def test_one_count_alone_keeps_the_preset_s_scale() -> None:
    views = base_views(config_of("--crops", "4"))
    first, second = PRESETS["byol"](224)
    assert views == (first, second, first, second)


def test_docs_name_every_number() -> None:
    text = (Path(__file__).parents[2] / "docs" / "augmentation.md").read_text()
    for name in to_dict(config_of("--aug.flip", "0"))["aug"]:
        assert f"`--aug.{name.replace('_', '-')}" in text, name


def test_a_run_resumes_with_its_numbers_and_refuses_other_weights(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two crops of each of two sizes, turned and mixed, of rows that a file weighs by name."""
    file = tmp_path / "weights.txt"
    names = [path.relative_to(toy / "train") for path in sorted((toy / "train").rglob("*.jpg"))]
    file.write_text("".join(f"{name} {1 + i % 3}\n" for i, name in enumerate(names)))
    words = ["--mix", "unmix", "--crops", "2", "2", "--aug.rotate90", "1", "--val-data", "none"]
    words += ["--aug.views", "2-3.gray=0.5", "--balance", str(file), "--limit-steps"]
    start = flags(toy, tmp_path, "swav", *words)
    assert run_train(*start, "3", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "balance: an epoch shows an image 0.4" in said and "scale" in said
    table = [line.split() for line in said.splitlines() if line[:3] in ("0-1", "2-3")]
    assert [row[:4] for row in table] == [["0-1", "16", "0.14", "1"], ["2-3", "8", "0.05", "0.14"]]
    assert run_train(*start, "1") == 0
    weights = file.read_text()
    file.write_text("".join(f"{name} 1\n" for name in names))
    assert run_train(*start, "2", "--resume", "auto") == 2
    assert f"--balance {file}: the weights are not those of" in capsys.readouterr().err
    file.write_text(weights)
    assert run_train(*start, "2", "--resume", "auto") == 0
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2]


@pytest.mark.parametrize("number", ["vertical_flip", "rotate90"])
def test_a_pipeline_to_compare_with_refuses_what_it_would_leave_out(number: str) -> None:
    view = dataclasses.replace(PRESETS["moco-v2"](16)[0], **{number: 0.5})
    with pytest.raises(ValueError, match=r"leave out --aug\.vertical-flip and"):
        torchvision_view(view, "antialias", (), ())


def test_cropmix_s_areas_are_shown_and_belong_to_its_views_alone() -> None:
    cropmix = ("--mix", "cropmix")
    assert [view.scale for view in base_views(config_of(*cropmix))] == [(0.2, 0.6)] * 2
    one_way = config_of(*cropmix, method="moco")
    assert [view.scale for view in base_views(one_way)] == [(0.2, 0.6), (0.2, 1.0)]
    with pytest.raises(ValueError, match=r"cropmix crops view 0 at 0\.2 to 0\.6 .* --mix scalemix"):
        base_views(config_of(*cropmix, "--aug.scale", "0.1", "1"))


def test_rand_augment_is_refused_for_other_channels() -> None:
    config = config_of("--views", "asym", "--in-chans", "4", method="moco")
    with pytest.raises(ValueError, match=r"--in-chans 4: RandAugment .* --aug\.rand-augment 0"):
        check(config, 1)


def test_a_pipeline_to_compare_with_refuses_rand_augment() -> None:
    with pytest.raises(ValueError, match="no RandAugment: leave out --views asym"):
        torchvision_view(PRESETS["asym"](16)[0], "antialias", (), ())
