"""CLIM's rules, tables and draws against plain loops; checks (a), (b), (e), (f) of its spec."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mix_cases import mix_views

from pipelines.mixtures.clim import Clim, NeighborTable, RandomNeighbors, tabulate
from pipelines.mixtures.clim_rules import MASKS, Candidates, purity, select
from pipelines.mixtures.unmix import UnMix
from pipelines.rng import RowRng

torch.set_num_threads(1)  # the problems are tiny

N, D, CLUSTERS, K = 500, 16, 9, 12


def problem() -> tuple[np.ndarray, np.ndarray]:
    """500 unit rows, one in ten a duplicate, and unit centres."""
    rng = np.random.default_rng(3)
    h = (
        rng.normal(size=(N, D))
        + 1.5 * rng.normal(size=(CLUSTERS, D))[rng.integers(CLUSTERS, size=N)]
    )
    h[::10] = h[rng.permutation(N)[: len(h[::10])]]
    h /= np.linalg.norm(h, axis=1, keepdims=True)
    v = h[rng.choice(N, CLUSTERS, replace=False)] + 0.1 * rng.normal(size=(CLUSTERS, D))
    return h, v / np.linalg.norm(v, axis=1, keepdims=True)


H, V = problem()
OWN = (H @ V.T).argmax(1)


def candidates() -> Candidates:
    similarity = H @ H.T
    np.fill_diagonal(similarity, -2)
    index = np.argsort(-similarity, axis=1, kind="stable")[:, :K].astype(np.int32)
    inner = H @ V.T
    to_own = inner[np.arange(N), OWN]
    return Candidates(
        index,
        np.take_along_axis(similarity, index, 1).astype(np.float32),
        inner[index, OWN[:, None]].astype(np.float32),
        OWN[index].astype(np.int32),
        to_own[index].astype(np.float32),
        OWN.astype(np.int32),
        to_own.astype(np.float32),
    )


def allowed(rule: str, i: int, j: int) -> bool:
    """The rule for one pair, word by word, in radii."""
    radius = 1 - np.float32(H[i] @ V[OWN[i]])
    inside = 1 - np.float32(H[j] @ V[OWN[i]]) < radius
    same = OWN[i] == OWN[j]
    return {"centre": inside, "centre-same": inside and same, "cluster": same, "knn": True}[rule]


@pytest.mark.parametrize("rule", MASKS)
def test_rules_against_a_loop(rule: str) -> None:
    """Check (a). Pairs within a rounding error of the surface may fall on either side."""
    c = candidates()
    chosen = select(c, rule)
    differ = 0
    for i in range(N):
        for p, j in enumerate(c.index[i]):
            on_surface = abs((H[j] - H[i]) @ V[OWN[i]]) < 1e-6
            assert on_surface or chosen.keep[i, p] == allowed(rule, i, int(j))
            differ += bool(on_surface)
    assert differ > 10  # duplicates lie on it
    assert (chosen.short == ~chosen.keep.any(1)).all()
    capped = select(c, rule, 2).keep
    assert (capped <= chosen.keep).all()
    assert (capped.sum(1) == np.minimum(chosen.keep.sum(1), 2)).all()
    assert all(not (chosen.keep[i] & ~capped[i])[: capped[i].nonzero()[0].max(initial=0)].any()
               for i in range(N))  # fmt: skip


def test_centre_rules_do_something() -> None:
    share = {rule: select(candidates(), rule).keep.mean() for rule in MASKS}
    assert 0.1 < share["centre-same"] < share["cluster"] < share["knn"] == 1
    assert share["centre-same"] <= share["centre"]


def test_same_cluster_rule_only_points_inwards() -> None:
    """Check (b): the radius falls along every edge, so there is no way back."""
    c = candidates()
    keep = select(c, "centre-same").keep
    i, p = keep.nonzero()
    assert len(i) > 500
    assert (c.to_own_center[i, p] > c.anchor_to_center[i]).all()
    edges = {(int(a), int(b)) for a, b in zip(i, c.index[i, p], strict=True)}
    assert not any((b, a) in edges for a, b in edges)


def test_ranked_takes_the_innermost_and_tops_up() -> None:
    c = candidates()
    chosen = select(c, "ranked")
    for i in range(N):
        same = [p for p in range(K) if OWN[c.index[i, p]] == OWN[i]]
        best = sorted(same, key=lambda p: 1 - c.to_own_center[i, p])[:5]
        others = [p for p in range(K) if p not in same]
        expected = set(best + others[: 5 - len(best)])
        assert set(chosen.keep[i].nonzero()[0]) == expected
        assert chosen.short[i] == (len(same) < 5)
    assert chosen.short.any() and not chosen.short.all()


@pytest.mark.parametrize("fallback", ["self", "nearest", "skip"])
def test_the_table_holds_the_kept_rows(fallback: str) -> None:
    c = candidates()
    selection = select(c, "centre")
    rows, count = tabulate(c.index, selection, fallback)  # type: ignore[arg-type]
    assert selection.short.any()
    for i in range(N):
        kept = c.index[i][selection.keep[i]].tolist()
        if not kept and fallback == "nearest":
            kept = [int(c.index[i, 0])]
        assert rows[i, : count[i]].tolist() == kept
        assert (rows[i, count[i] :] == -1).all()


def test_neighbours_are_drawn_evenly_and_by_the_anchor_alone() -> None:
    rows = np.array([[5, 6, 7], [4, -1, -1], [-1, -1, -1]], np.int32)
    table = NeighborTable(rows, np.array([3, 1, 0], np.int32))
    drawn = np.array([table.draw(np.array([0, 1, 2]), RowRng(1, epoch)) for epoch in range(3000)])
    counts = np.bincount(drawn[:, 0])[5:]
    assert counts.sum() == 3000 and (abs(counts - 1000) < 130).all()  # 5 standard deviations
    assert (drawn[:, 1] == 4).all() and (drawn[:, 2] == 2).all()
    for epoch in range(20):
        alone = table.draw(np.array([0]), RowRng(1, epoch))
        assert alone == drawn[epoch, 0]
    assert (NeighborTable.none(9).draw(np.arange(9), RowRng(0, 0)) == np.arange(9)).all()


def test_any_row_is_every_other_row() -> None:
    anchors = np.arange(5)
    drawn = np.array([RandomNeighbors(5).draw(anchors, RowRng(2, epoch)) for epoch in range(2000)])
    assert (drawn != anchors).all()
    for i in range(5):
        counts = np.bincount(drawn[:, i], minlength=5)
        assert counts[i] == 0 and (abs(np.delete(counts, i) - 500) < 100).all()


ROWS = range(4)
NEXT = NeighborTable(np.array([[1], [2], [0], [0]], np.int32), np.array([1, 1, 0, 1], np.int32))
"""Row 2 is alone."""


@pytest.mark.parametrize("size", [32, 96, 160, 224])
@pytest.mark.parametrize("group", [None, 2])
def test_the_box_has_the_measured_share(size: int, group: int | None) -> None:
    """Check (f): (1 - lam) H W pixels exactly, at each resolution."""
    n = 4
    view = torch.cat([torch.zeros(n, 3, size, size), torch.ones(n, 3, size, size)])
    shares = set()
    clim = Clim(NEXT, UnMix(0.0, 2.0, per_group=group is not None))
    for step in range(12):
        (m,) = mix_views(clim, [view], rows=ROWS, group=group, seed=1, step=step)
        pasted = m.image[:, 0].sum((1, 2))
        assert torch.equal(pasted, ((1 - m.lam.double()) * size * size).round().float())
        assert ((m.image == 0) | (m.image == 1)).all()
        assert m.partner.tolist() == [n, n + 1, 2, n + 3]
        assert len(m.lam.unique()) <= (1 if group is None else 2)
        shares |= set(m.lam.tolist())
    assert len(shares) > 8 and view[:n].sum() == 0


def test_mixup_and_skip() -> None:
    view = torch.cat([torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8)])
    (m,) = mix_views(
        Clim(NEXT, UnMix(1.0, 2.0), skip_self_paired=True), [view], rows=ROWS[2:], step=3
    )
    assert (m.image[0] == 0).all() and m.lam[0] == 1 and 0 < m.lam[1] < 1
    torch.testing.assert_close(m.image[1], (1 - m.lam[1]).expand(3, 8, 8))


def test_purity_counts_labelled_pairs_only() -> None:
    index = np.array([[1, 2], [0, 3], [0, 1]], np.int32)
    label = np.array([0, 0, 1, -1])
    keep = np.array([[True, True], [True, True], [True, False]])
    assert purity(index, keep, np.arange(3), label) == 2 / 4
    assert np.isnan(purity(index, keep, np.arange(3), np.full(4, -1)))
