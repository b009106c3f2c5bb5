"""The start-up check: what does not fit a small data set is named, with a number that fits."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from models.methods import METHODS
from pipelines.data_facts import DATASETS
from tools.config.advice import Advice, advise, misfits
from tools.config.cli import parse
from tools.config.config import Config, ResolvedConfig
from tools.config.resolve import check, resolve

ROOT = Path(__file__).parents[2]
SIZES = (300, 461, 1_000, 5_100, 10_000)


def resolved(**settings: Any) -> ResolvedConfig:
    """The settings of a run; ``owner__field`` is a number of a method or a mixture."""
    flat = {name: value for name, value in settings.items() if "__" not in name}
    config = dataclasses.replace(Config(data="folder:."), **flat)
    for name in settings.keys() - flat.keys():
        owner, field = name.split("__")
        numbers = dataclasses.replace(getattr(config, owner), **{field: settings[name]})
        config = dataclasses.replace(config, **{owner: numbers})
    return resolve(config, DATASETS["photos"], "no")


def found(num_rows: int, **settings: Any) -> dict[str, Advice]:
    return {advice.setting: advice for advice in misfits(resolved(**settings), num_rows)}


def test_the_published_numbers_fit_imagenet() -> None:
    for method in METHODS:
        config = resolved(method=method)
        assert advise(config, 1_281_167, [1_300] * 1_000) == [], method


SMALL = [
    (461, "moco.queue", {"method": "moco"}, "142"),
    (461, "batch_size", {"method": "simclr"}, "1"),
    (461, "swav.freeze_steps", {"method": "swav", "epochs": 50}, "350"),
    (461, "swav.prototypes", {"method": "swav"}, "3000"),
    (461, "swav.queue", {"method": "swav", "swav__queue": 3840}, "3840"),
    (9_000, "swav.queue_start_epoch", {"method": "swav", "epochs": 9, "swav__queue": 256}, "15"),
    (461, "dino.prototypes", {"method": "dino"}, "65536"),
    (461, "dino.freeze_epochs", {"method": "dino", "epochs": 8}, "8"),
    (461, "dino.temperature_epochs", {"method": "dino", "epochs": 30}, "30"),
    (461, "warmup_epochs", {"method": "byol", "epochs": 5}, "5)"),
    (461, "cmc.negatives", {"method": "cmc"}, "461"),
    (461, "insdis.negatives", {"method": "insdis"}, "461"),
    (461, "clim.start_epoch", {"method": "moco", "mix": "clim", "epochs": 10}, "10"),
    (461, "moco.momentum", {"method": "moco", "epochs": 10}, "93%"),
    (461, "byol.momentum", {"method": "byol", "epochs": 10}, "87%"),
]


@pytest.mark.parametrize(("num_rows", "setting", "settings", "number"), SMALL)
def test_each_rule_names_the_flag_the_number_and_one_that_fits(
    num_rows: int, setting: str, settings: dict[str, Any], number: str
) -> None:
    advice = found(num_rows, **settings)[setting]
    line = str(advice)
    name = "--" + setting.replace("_", "-")
    assert line.startswith(f"{name} {advice.value:g}: ") and "\n" not in line
    assert line.endswith(f"; {name} {advice.fitting:g} would fit")
    assert number in re.split(r"[ ,;:]+", line), line


@pytest.mark.parametrize(
    ("setting", "num_rows", "fits", "does_not"),
    [
        ("moco.queue", 10_000, 5_000, 5_001),
        ("swav.prototypes", 1_000, 250, 251),
        ("dino.prototypes", 1_000, 250, 251),
        ("swav.freeze_steps", 10_000, 389, 390),  # of 100 epochs of 39 steps
        ("cmc.negatives", 10_000, 9_999, 10_000),
        ("batch_size", 1_000, 240, 256),
        ("warmup_epochs", 1_000, 49.9, 50),
        ("dino.freeze_epochs", 10_000, 9, 10),
    ],
)
def test_where_a_rule_begins(setting: str, num_rows: int, fits: float, does_not: float) -> None:
    owner = setting.rpartition(".")[0] or "simclr"
    for value, expected in ((fits, False), (does_not, True)):
        settings = {"method": owner, setting.replace(".", "__"): value}
        assert (setting in found(num_rows, **settings)) == expected


def applied(config: ResolvedConfig, advice: Advice) -> ResolvedConfig:
    owner, _, field = advice.setting.rpartition(".")
    change: dict[str, Any] = {field: advice.fitting}
    if owner:
        change = {owner: dataclasses.replace(getattr(config, owner), **change)}
    return dataclasses.replace(config, **change)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("epochs", [5, 100])
def test_what_is_advised_fits(method: str, epochs: int) -> None:
    """Once all of it is followed, nothing is left to advise and nothing is refused."""
    for num_rows in SIZES:
        config = resolved(method=method, epochs=epochs)
        advices = list(misfits(config, num_rows))
        for advice in advices:
            assert advice.fitting is not None or method == "wmse", advice
            if advice.fitting is not None:
                config = applied(config, advice)
        check(config, 1)
        left = [str(advice) for advice in misfits(config, num_rows) if advice.fitting is not None]
        assert left == [], (method, num_rows, epochs)


def test_small_classes_are_outvoted() -> None:
    config = resolved(method="simclr", batch_size=64)
    assert advise(config, 10_000, [200, 9_800]) == []
    (line,) = advise(config, 10_000, [12, 9_988])
    assert "smallest class has 12 images" in line and "--knn-k 6 would fit" in line
    assert advise(dataclasses.replace(config, knn_every=0), 10_000, [12, 9_988]) == []
    assert advise(config, 10_000) == []


def test_equal_classes_are_not_outvoted() -> None:
    """As a run's own remark, the note is for classes of unequal sizes, and names the k in force."""
    config = resolved(method="simclr", batch_size=8, groups=4, warmup_epochs=0.0)
    (line,) = advise(config, 10_000, [12, 12])
    assert line == "--knn-k 200 becomes 24, the number of images that can vote"
    assert advise(dataclasses.replace(config, knn_k=20), 10_000, [12, 12]) == []
    clipped, outvoted = advise(config, 10_000, [1, 23])
    assert clipped == line and "lets 24 neighbours vote" in outvoted
    assert "the smallest class has 1 image, outvoted" in outvoted


def test_a_batch_that_divides_the_images_leaves_none_out() -> None:
    for batch, expected in ((8, None), (24, None), (16, "leaves out 8 images"), (23, "1 image")):
        advice = found(24, method="simclr", batch_size=batch, groups=1).get("batch_size")
        assert (advice and advice.reason.endswith(expected)) if expected else advice is None
    assert found(24, method="simclr", batch_size=16)["batch_size"].fitting == 8


def test_the_recipe_for_small_data_needs_no_advice() -> None:
    recipe = str(ROOT / "recipes" / "small-data.yaml")
    for method in ("simclr", "moco", "swav"):
        given = parse(["--recipe", recipe, "--method", method])
        config = resolve(given, DATASETS["photos"], "no")
        for num_rows in (500, 1_000, 10_000):
            assert advise(config, num_rows) == [], (method, num_rows)
