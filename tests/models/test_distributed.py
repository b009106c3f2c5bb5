"""Law 4: one process with B rows equals two with B/2 rows each, and four with B/4."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from method_cases import (
    AMONG,
    CASES,
    FEW,
    NAMED,
    Case,
    assert_law_4,
    differences,
    largest_gap,
    parts,
    sabotages,
    train,
    work,
)
from processes import in_group

from models import distributed

KEPT = {
    "moco's queue forgets to gather": "queue.rows",
    "swav's queue forgets to gather": "queue",
    "cmc's banks forget to gather": "bank",
    "dino's center forgets to gather": "centre",
}
"""What of a method's state differs between the ranks when its own gather is removed."""
alone = cache(train)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found: all cases, and those that must go wrong."""
    return in_group(2, tmp_path_factory.mktemp("two"), work, [*CASES, *NAMED, *AMONG], True)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of four processes found, each with one of the batch's groups."""
    return in_group(4, tmp_path_factory.mktemp("four"), work, FEW, False)


@pytest.mark.parametrize("case", [*CASES, *NAMED, *AMONG], ids=str)
def test_two_processes_equal_one(case: Case, two: list[dict[str, Any]]) -> None:
    assert_law_4(alone(case), [result["cases"][str(case)] for result in two])


@pytest.mark.parametrize("case", FEW, ids=str)
def test_four_processes_equal_one(case: Case, four: list[dict[str, Any]]) -> None:
    assert_law_4(alone(case), [result["cases"][str(case)] for result in four])


@pytest.mark.parametrize("name", sabotages())
def test_the_check_fails_without_the_gather(name: str, two: list[dict[str, Any]]) -> None:
    found = [result["sabotaged"][name] for result in two]
    expected = alone(sabotages()[name][0])
    assert max(largest_gap(expected, many, "last/state") for many in found) > 1e-4
    if name in KEPT:
        assert any(KEPT[name] in which for which in differences(found))


@pytest.mark.parametrize("number", ["two", "four"])
def test_collectives_and_sync_batch_norm(number: str, request: pytest.FixtureRequest) -> None:
    ranks = request.getfixturevalue(number)
    for name, expected in parts().items():
        pieces = [r["parts"][name] for r in ranks]
        joined = torch.cat(pieces) if expected.ndim == 4 else pieces[0]
        torch.testing.assert_close(joined, expected, rtol=0, atol=1e-9, check_stride=False)
    assert all((r["parts"]["exchange/back"] == 0).all() for r in ranks)
    assert all(
        r["parts"]["exchange/last"].is_contiguous(memory_format=torch.channels_last) for r in ranks
    )


def test_alone_everything_is_the_identity() -> None:
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    x = torch.randn(4, 2)
    assert distributed.gather(x) is x
    assert distributed.all_reduce_sum(x) is x
    order = np.array([2, 0, 3, 1])
    assert distributed.exchange(x, order).equal(x[order])
