"""Law 4 with CLIM: one process with B anchors equals two, and so do neighbour tables.

Four processes: tests/faults/scale.py.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from clim_cases import CASES, ClimCase, run_flags, train, work
from clustering_cases import tables
from launch_cases import recorded_rows
from method_cases import assert_law_4, largest_gap
from processes import in_group
from runs import lines

from tools.runs import checkpoint

alone = cache(train)


@pytest.fixture(scope="module")
def one(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    folder = tmp_path_factory.mktemp("one")
    assert len(recorded_rows(*run_flags(toy, folder), double=True)) == 4
    return folder / "run"


@pytest.fixture(scope="module")
def group(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The run of a group of processes, and what each of them found."""
    folder = tmp_path_factory.mktemp("group")
    return folder / "many" / "run", in_group(2, folder, work, toy, folder)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_many_processes_equal_one(case: ClimCase, group: tuple[Path, list[dict[str, Any]]]) -> None:
    assert_law_4(alone(case), [result["cases"][str(case)] for result in group[1]])


def test_the_check_fails_without_the_shuffle(group: tuple[Path, list[dict[str, Any]]]) -> None:
    gaps = [largest_gap(alone(CASES[0]), r["sabotaged"], "last/state") for r in group[1]]
    assert max(gaps) > 1e-6


def test_tables_are_equal_bit_for_bit(group: tuple[Path, list[dict[str, Any]]]) -> None:
    expected = tables()
    for result in group[1]:
        for name, values in expected.items():
            if name != "world_size":
                assert torch.equal(values, result["tables"][name]), name


def test_a_whole_run_is_the_same(one: Path, group: tuple[Path, list[dict[str, Any]]]) -> None:
    """All processes but the first have no block of rows of their own, yet the same table."""
    many, ranks = group
    assert [line["world_size"] for line in lines(many)] == [len(ranks)] * 4
    for a, b in zip(lines(one), lines(many), strict=True):
        for name in ("loss", "lam", *(k for k in a if k.startswith("clim"))):
            assert b[name] == pytest.approx(a[name], rel=1e-6), name
    assert "clim_set_size" in lines(one)[2]
    a, b = (checkpoint.load(x / "checkpoints" / "step-4.pt")["neighbours"] for x in (one, many))
    assert torch.equal(a["rows"], b["rows"]) and torch.equal(a["count"], b["count"])
    assert int(a["count"].max()) > 0
