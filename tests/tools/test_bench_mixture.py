"""The cost of a mixture is counted from the encoders' inputs, and measured for every method."""

import dataclasses
import json
from fractions import Fraction
from pathlib import Path

import pytest
from method_cases import AMONG, CROPS, CROSS, I_MIX, Case, build, make_batch
from runs import SMALL, TINY, run_main

from models.methods import METHODS
from tools.benchmarks import mixture
from tools.benchmarks.mixture import count, pixels, without_others
from tools.profiling import clock

UNITS = [
    (Case("moco", bn="group"), 4, 7),
    (Case("moco", (("symmetric", True),), bn="group"), 8, 11),
    (Case("simclr"), 6, 9),
    (Case("barlow"), 6, 9),
    (Case("barlow", names=CROSS), 6, 9),
    (Case("byol"), 8, 12),
    (Case("byol", (("mix_online", True),)), 8, 11),
    (Case("moco", (("batch_keys", True),), "group", names=I_MIX), 4, 4),
    (Case("simclr", names=I_MIX), 6, 6),
    (Case("byol", names=I_MIX), 8, 4),
    (Case("moco", bn="group", names=("", "mask")), 4, 10),
    *((case, 8, 9) for case in AMONG),
    (Case("swav"), 6, 9),
    (Case("swav", sizes=CROPS), Fraction(15, 2), Fraction(45, 4)),  # small views have 1/4 of it
]


@pytest.mark.parametrize(("case", "clean", "mixed"), UNITS, ids=lambda value: str(value))
def test_units_of_a_step(case: Case, clean: Fraction, mixed: Fraction) -> None:
    """3 a view that learns, 1 a view that does not, and no encoder sees a mixture twice for it."""
    method, batch = build(case), make_batch(case)
    unit = len(batch.index) * pixels(batch.views[0])
    for given, units in ((dataclasses.replace(batch, mixed=()), clean), (batch, mixed)):
        counted = count(method, lambda given=given: method(given))
        assert Fraction(counted.work, unit) == units
        assert counted.with_gradient <= len(batch.index) * (len(given.views) + len(given.mixed))
    assert not any(encoder._forward_hooks for encoder in method.encoders())


def test_swav_encodes_each_size_at_once() -> None:
    case = Case("swav", sizes=CROPS)
    method = build(case)
    counted = count(method, lambda: method(make_batch(case)))
    assert (counted.calls, counted.images) == (2, 6 * case.rows)


def test_every_method_has_a_row(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mixture, "WARMUP", 1)
    monkeypatch.setattr(clock, "LONG_ENOUGH", 0.001)
    out = tmp_path / "out.json"
    small = (flag for name in SMALL for flag in SMALL[name])
    given = ("--data", f"folder:{toy}", *TINY, "--image-size", "8", "--batch-size", "8")
    given += ("--groups", "2", *small, "--steps", "1", "--repeats", "1", "--json", str(out))
    assert run_main(mixture.main, *given) == 0
    rows = {row["method"]: row for row in json.loads(out.read_text())["methods"]}
    assert {name.split()[0] for name in rows} == set(METHODS)
    for name, row in rows.items():
        if "skipped" not in row:
            assert row["counted"] > 1 and row["measured"] > 0, name
    assert rows["moco one-way"]["counted"] == 7 / 4
    assert rows["simclr"]["counted"] == 9 / 6
    assert "moco symmetric" in capsys.readouterr().out


def test_what_a_method_refuses_is_left_out(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--data", f"folder:{toy}", *TINY, "--only", "moco", "--moco.queue", "8")
    assert run_main(mixture.main, *given) == 0
    assert "left out: --moco.queue 8" in capsys.readouterr().out


def test_each_method_gets_its_own_flags() -> None:
    words = ["--seed", "1", "--moco.queue", "64", "--swav.dim=8", "--crops", "2", "6"]
    assert without_others("swav", words) == ["--seed", "1", "--swav.dim=8", "--crops", "2", "6"]


@pytest.mark.parametrize("given", [("--only", "mocha"), ("--repeats", "0"), ("--no-such-flag",)])
def test_bad_flags(given: tuple[str, ...]) -> None:
    assert run_main(mixture.main, *given) == 2
