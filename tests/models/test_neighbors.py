"""Nearest-neighbour search against brute force, for any block size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from models import neighbors
from models.neighbors import nearest_rows

BANK = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) + 3


@pytest.mark.parametrize("block", [1, 7, 50])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("without_self", [True, False])
def test_blocks_do_not_change_what_is_nearest(
    monkeypatch: pytest.MonkeyPatch, block: int, distance: Any, without_self: bool
) -> None:
    monkeypatch.setattr(neighbors, "BLOCK", block)
    monkeypatch.setattr(neighbors, "PRODUCTS", 5 * block)  # five queries at a time
    rows = torch.arange(3, 50, 4)
    own = rows if without_self else None
    before = BANK.clone()
    similarity, index = nearest_rows(BANK[rows], BANK, 9, own=own, distance=distance)
    unit = torch.nn.functional.normalize(BANK.double(), dim=1)
    expected = unit[rows] @ unit.T
    if distance == "euclidean":
        expected = -torch.cdist(BANK[rows].double(), BANK.double())
    if without_self:
        expected[torch.arange(len(rows)), rows] = -torch.inf
    values, places = expected.sort(dim=1, descending=True)
    assert torch.equal(index, places[:, :9])
    torch.testing.assert_close(similarity.double(), values[:, :9], atol=2e-3, rtol=1e-4)
    assert torch.equal(BANK, before)


@pytest.mark.parametrize("k", [0, 50])
def test_a_bank_that_is_too_small_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"k {k} must be between 1 and 49"):
        nearest_rows(BANK, BANK, k, own=torch.arange(50))


def peak_of(work: Callable[[], object]) -> int:
    """Return the most bytes that PyTorch's allocator held at a time beyond what it held before."""
    with torch.profiler.profile(profile_memory=True) as seen:
        work()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = np.array([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    return int(sizes.cumsum().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_the_search_holds_one_bank(
    distance: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Less than 0.3 banks come on top of it, also of a bank in half precision."""
    monkeypatch.setattr(neighbors, "SMALL_BANK", 0)
    bank = torch.randn(8000, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    queries = bank[:100].clone()
    peak = peak_of(lambda: nearest_rows(queries, bank, 20, distance=distance))
    assert peak < 0.3 * bank.nbytes
    assert peak_of(lambda: bank.clone()) >= bank.nbytes  # the measure sees a copy


def test_half_precision_finds_what_its_values_in_float32_find() -> None:
    half = BANK.half()
    for distance in ("cosine", "euclidean"):
        ours, theirs = (nearest_rows(x[:9], x, 5, distance=distance) for x in (half, half.float()))  # type: ignore[arg-type]
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
