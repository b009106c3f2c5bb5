"""Law 4: one process with B rows equals two processes with B/2 rows each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

sys.path.insert(0, str(Path(__file__).parent))
import method_cases
from method_cases import CASES, Case, parts, train, worker

from models import distributed

WORLD = 2


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Each rank's results; one spawned group runs everything."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(worker, (WORLD, str(folder)), nprocs=WORLD)
    results = [torch.load(folder / f"{r}.pt") for r in range(WORLD)]
    assert [r["world_size"] for r in results] == [WORLD] * WORLD
    return results


def largest_gap(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], prefix: str) -> float:
    """Largest absolute difference over the entries under ``prefix``."""
    assert a.keys() == b.keys()
    names = [k for k in a if k.startswith(prefix)]
    assert names
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in names)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_processes_equal_one(case: Case, ranks: list[dict[str, Any]]) -> None:
    alone = train(case)
    for result in ranks:
        many = result["cases"][str(case)]
        assert largest_gap(alone, many, "first/loss") < 1e-9
        assert largest_gap(alone, many, "first/grad") < 1e-9
        assert largest_gap(alone, many, "last/loss") < 1e-6
        assert largest_gap(alone, many, "last/state") < 1e-6


@pytest.mark.parametrize("name", method_cases._sabotages())
def test_the_check_fails_without_the_gather(name: str, ranks: list[dict[str, Any]]) -> None:
    alone = train(method_cases._sabotages()[name][0])
    gaps = [largest_gap(alone, r["sabotaged"][name], "last/state") for r in ranks]
    assert max(gaps) > 1e-4


def test_collectives_and_sync_batch_norm(ranks: list[dict[str, Any]]) -> None:
    alone = parts()
    for name, expected in alone.items():
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
