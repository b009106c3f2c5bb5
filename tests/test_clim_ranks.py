"""Law 4 with CLIM: one process with B anchors equals two with B/2 each; so do neighbour tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

sys.path.insert(0, str(Path(__file__).parent))
from clim_cases import CASES, ClimCase, run_flags, train, worker
from launch_cases import recorded_rows
from runs import lines
from test_search import tables

from tools.run import checkpoint

WORLD = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clim")


@pytest.fixture(scope="module")
def ranks(toy: Path, folder: Path) -> list[dict[str, Any]]:
    mp.spawn(worker, (WORLD, toy, folder), nprocs=WORLD)
    results = [torch.load(folder / f"{r}.pt") for r in range(WORLD)]
    assert [r["world_size"] for r in results] == [WORLD] * WORLD
    return results


def gap(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], prefix: str) -> float:
    assert a.keys() == b.keys()
    names = [k for k in a if k.startswith(prefix)]
    assert names
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in names)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_processes_equal_one(case: ClimCase, ranks: list[dict[str, Any]]) -> None:
    alone = train(case)
    for result in ranks:
        many = result["cases"][str(case)]
        assert gap(alone, many, "first/loss") < 1e-9
        assert gap(alone, many, "first/grad") < 1e-9
        assert gap(alone, many, "last/loss") < 1e-6
        assert gap(alone, many, "last/state") < 1e-6


def test_the_check_fails_without_the_shuffle(ranks: list[dict[str, Any]]) -> None:
    alone = train(CASES[0])
    assert max(gap(alone, r["sabotaged"], "last/state") for r in ranks) > 1e-6


def test_tables_are_equal_bit_for_bit(ranks: list[dict[str, Any]]) -> None:
    alone = tables()
    for result in ranks:
        for name, values in alone.items():
            if name != "world_size":
                assert torch.equal(values, result["tables"][name]), name


@pytest.mark.usefixtures("ranks")
def test_a_whole_run_is_the_same(toy: Path, folder: Path) -> None:
    """The second process has no block of rows of its own, yet the same table."""
    alone = recorded_rows(*run_flags(toy, folder / "one"), double=True)
    assert len(alone) == 4
    one, many = (lines(folder / name / "run") for name in ("one", "many"))
    assert [line["world_size"] for line in many] == [WORLD] * 4
    for a, b in zip(one, many, strict=True):
        for name in ("loss", "lam", *(k for k in a if k.startswith("clim"))):
            assert b[name] == pytest.approx(a[name], rel=1e-6), name
    assert "clim_set_size" in one[2]
    a, b = (
        checkpoint.load(folder / name / "run" / "checkpoints" / "step-4.pt")["neighbours"]
        for name in ("one", "many")
    )
    assert torch.equal(a["rows"], b["rows"]) and torch.equal(a["count"], b["count"])
    assert int(a["count"].max()) > 0
