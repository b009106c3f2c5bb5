"""The side of the largest views in each step, the settings it changes, and refused values."""

from pathlib import Path

import numpy as np
import pytest
import torch
from runs import SMALL, TINY, lines, run_train, skip_pictures

from pipelines.decoders.memory import MemoryDecoder
from pipelines.loader import Loader
from pipelines.presets import PRESETS
from pipelines.resolution import MultiScale, Progressive, parse_schedule
from pipelines.sampler import Sampler
from pipelines.sources.arrays import Arrays
from pipelines.sources.table import Table
from pipelines.step_maker import StepMaker
from pipelines.views import View, ViewPlan, with_side
from tools.config.cli import differences, from_dict, to_dict
from tools.config.config import Config
from tools.runs import checkpoint

STEPS = 5


def sides(schedule: Progressive) -> list[int]:
    """One for each epoch, in which it must not change."""
    epochs = [
        {schedule.side(epoch * STEPS + step) for step in range(STEPS)}
        for epoch in range(schedule.epochs)
    ]
    assert all(len(epoch) == 1 for epoch in epochs)
    return [side for epoch in epochs for side in epoch]


@pytest.mark.parametrize(
    ("first", "last", "epochs", "expected"),
    [
        (160, 224, 5, [160, 192, 192, 224, 224]),
        (128, 224, 4, [128, 160, 192, 224]),
        (100, 230, 4, [100, 128, 192, 230]),  # both ends are exact
        (16, 32, 5, [16, 20, 24, 28, 32]),
        (24, 32, 3, [24, 28, 32]),
        (90, 96, 3, [90, 96, 96]),
        (64, 64, 3, [64, 64, 64]),
        (160, 224, 2, [160, 224]),
        (160, 224, 1, [224]),
    ],
)
def test_the_side_grows_from_the_first_epoch_to_the_last(
    first: int, last: int, epochs: int, expected: list[int]
) -> None:
    assert sides(Progressive(first, last, epochs, STEPS)) == expected


def test_the_side_never_shrinks_nor_leaves_its_range() -> None:
    for first, last in ((30, 31), (33, 97), (95, 96), (1, 500)):
        found = sides(Progressive(first, last, 40, STEPS))
        assert found == sorted(found) and (found[0], found[-1]) == (first, last)


def test_each_scale_is_drawn_as_often_and_only_by_seed_and_step() -> None:
    scales = MultiScale((128, 160, 224), seed=1)
    drawn = [scales.side(step) for step in range(3000)]
    assert [scales.side(step) for step in (7, 2, 7)] == [drawn[7], drawn[2], drawn[7]]
    assert [drawn.count(side) for side in (128, 160, 224)] == pytest.approx([1000] * 3, abs=100)
    assert drawn[:50] != [MultiScale((128, 160, 224), seed=2).side(step) for step in range(50)]
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 0.08


def test_smaller_views_keep_their_side() -> None:
    views = PRESETS["swav"](224)
    changed = with_side(views, 160)
    assert [view.size for view in changed] == [160, 160, *[96] * 6]
    assert with_side(changed, 224) == views  # everything else is as it was


def loader_of(size: int, resolution: Progressive | MultiScale) -> Loader:
    images = np.random.default_rng(0).integers(0, 256, (20, 40, 40, 3), np.uint8)
    side = np.full(20, 40, np.int32)
    table = Table(np.zeros(20, np.int64), side, side, Arrays("test", images))
    decoder = MemoryDecoder(table, device=torch.device("cpu"))
    views = (View(size, blur=0.5), View(16), View(size))
    mean = (0.5, 0.5, 0.5)
    plan = ViewPlan(views, resolution=resolution)
    return Loader(StepMaker(table, Sampler(20, 4), plan, decoder, mean, mean))


def test_a_batch_s_views_have_the_side_of_its_step() -> None:
    loader = loader_of(32, Progressive(20, 32, 3, STEPS))
    for batch in loader.batches(0, 3 * STEPS):
        side = (20, 28, 32)[batch.step // STEPS]
        assert [view.shape[-2:] for view in batch.views] == [(s, s) for s in (side, 16, side)]


def test_a_view_is_the_one_of_a_run_at_that_side() -> None:
    changing, fixed = loader_of(32, MultiScale((20, 32), 0)), loader_of(20, MultiScale((20,), 0))
    same = 0
    for a, b in zip(changing.batches(0, 10), fixed.batches(0, 10), strict=True):
        if a.views[0].shape == b.views[0].shape:
            same += 1
            assert all(torch.equal(x, y) for x, y in zip(a.views, b.views, strict=True))
    assert 0 < same < 10


@pytest.mark.parametrize("text", ["", "160", "160:", ":224", "224:160", "0:32", "1.5:3", "-8:32"])
def test_what_is_no_schedule_names_the_flag(text: str) -> None:
    with pytest.raises(ValueError, match="--resolution-schedule"):
        parse_schedule(text)
    with pytest.raises(ValueError, match="--resolution-schedule"):
        Config(resolution_schedule=text)


def test_two_ways_to_change_the_side_are_refused() -> None:
    with pytest.raises(ValueError, match="--resolution-schedule, --multi-scale and --resolutions"):
        Config(resolution_schedule="160:224", multi_scale=(160, 224))
    with pytest.raises(ValueError, match="--multi-scale"):
        Config(multi_scale=(0, 224))


def flags(toy: Path, output: Path, *more: str) -> tuple[str, ...]:
    where = ("--data", f"folder:{toy}", "--output", str(output), "--name", "run")
    method = ("--method", "simclr", *TINY, *SMALL["simclr"], "--loader", "memory")
    return (*method, "--mix", "unmix", *where, *more)


def test_large_views_below_the_small_ones_are_refused(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--views", "swav", "--image-size", "32", "--resolution-schedule", "8:32")
    assert run_train(*flags(toy, tmp_path, *more)) == 2
    assert "--resolution-schedule" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changing",
    [
        ("--resolution-schedule", "12:20"),
        ("--multi-scale", "12", "20", "--order", "blocks", "--block-rows", "4"),
    ],
)
def test_a_resumed_run_is_the_straight_run(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changing: tuple[str, ...]
) -> None:
    """Law 3, through the middle of an epoch (2 steps each) and its end."""
    skip_pictures(monkeypatch)
    a, b = (flags(toy, tmp_path / name, *changing) for name in "ab")
    assert run_train(*a, "--limit-steps", "5") == 0
    assert run_train(*b, "--limit-steps", "3") == 0
    assert run_train(*b, "--limit-steps", "5", "--resume", "auto") == 0
    runs = [tmp_path / name / "run" for name in "ab"]
    losses = [[(m["step"], m["loss"]) for m in lines(run)] for run in runs]
    assert losses[0] == losses[1] and len(losses[0]) == 5
    paths = [checkpoint.last(run / "checkpoints") for run in runs]
    first, second = (checkpoint.load(path)["method"] for path in paths if path)
    assert all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize(
    ("other", "line"),
    [
        (Config(resolution_schedule="160:224"), "--resolution-schedule: None -> 160:224"),
        (Config(multi_scale=(160, 224)), "--multi-scale: () -> (160, 224)"),
        (Config(order="blocks"), "--order: random -> blocks"),
    ],
)
def test_a_run_is_not_resumed_with_another_side_or_order(other: Config, line: str) -> None:
    assert differences(other, Config()) == [line]
    assert from_dict(to_dict(other), "test") == other
