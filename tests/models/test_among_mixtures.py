"""SDMP and PatchMix for MoCo v3: NumPy float64 loops of the papers' formulas, and identities."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from embedding_cases import LAM, Array, N, batch_of, cos, difference, method_on_rows, rows
from method_cases import Case, build, make_batch

from models.losses.among_mixtures import overlap
from pipelines.batch import Mixed
from pipelines.data_facts import DATASETS
from pipelines.views import View, ViewPlan
from tools.config.cli import parse
from tools.config.resolve import resolve
from tools.engine.dry_run import memory

MIRRORED = torch.tensor([2, 1, 0, 5, 4, 3])
MIRRORED[1], MIRRORED[4] = 4, 1  # no row is its own partner
NEXT = torch.tensor([1, 2, 0, 4, 5, 3])
SHARES = torch.tensor([0.3, 0.8, 0.45, 0.9, 0.1, 0.6], dtype=torch.float64)
HALF = torch.full((N,), 0.5, dtype=torch.float64)
T = 0.4


def mixed(partner: torch.Tensor, lam: torch.Tensor) -> Mixed:
    return Mixed(0, torch.zeros(len(lam), 3, 1, 1), partner, lam)


def test_sdmp_s_targets_by_the_overlap() -> None:
    """(1, c) / (1 + c) on the row and its partner, c as the paper defines it."""
    targets = overlap(mixed(MIRRORED, SHARES), mixed(MIRRORED, SHARES))
    for i, j in enumerate(MIRRORED.tolist()):
        a, b = float(SHARES[i]), float(SHARES[j])
        c = min(a, 1 - b) + min(1 - a, b)
        assert c == pytest.approx(1 - abs(a + b - 1))
        assert float(targets[i, i]) == pytest.approx(1 / (1 + c))
        assert float(targets[i, j]) == pytest.approx(c / (1 + c))
        assert float(targets[i].sum()) == pytest.approx(1)


def test_patchmix_s_targets_by_the_overlap() -> None:
    """(m - |d|) / m^2 for m = 2 images: a quarter, a half, a quarter."""
    partner = torch.arange(5).roll(-1)
    targets = overlap(mixed(partner, HALF[:5]), mixed(partner, HALF[:5]))
    expected = [
        [
            (2 - min((j - i) % 5, (i - j) % 5)) / 4 if (j - i) % 5 in (0, 1, 4) else 0
            for j in range(5)
        ]
        for i in range(5)
    ]
    torch.testing.assert_close(targets, torch.tensor(expected, dtype=torch.float64))


def test_two_that_are_one_mixture_share_the_target_and_pure_ones_do_not() -> None:
    share = torch.tensor([0.3, 0.7, 1.0, 1.0], dtype=torch.float64)
    pairs = mixed(torch.tensor([1, 0, 3, 2]), share)
    expected = [[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    torch.testing.assert_close(overlap(pairs, pairs), torch.tensor(expected, dtype=torch.float64))


def ctr(q: Array, keys: Array, weights: Array) -> float:
    """-2 T sum_j w_j log softmax_j."""
    e = np.array([np.exp(cos(q, k) / T) for k in keys])
    return float(-2 * T * (weights * np.log(e / e.sum())).sum())


def loop(partner: torch.Tensor, lam: torch.Tensor, scale: float) -> Callable[..., tuple]:
    p, share = partner.tolist(), lam.numpy()
    contents = [{i: share[i], p[i]: 1 - share[i]} for i in range(N)]

    def weights(i: int) -> Array:
        w = [
            sum(min(contents[i].get(x, 0), contents[j].get(x, 0)) for x in range(N))
            for j in range(N)
        ]
        return np.array(w) / sum(w)

    def terms(a: Array, b: Array, mb: Array, ma: Array) -> tuple[float, float, float]:
        one, order = np.eye(N), range(N)
        source = np.mean([ctr(a[i] + 0.1, b, one[i]) for i in order])
        own = [share[i] * one[i] + (1 - share[i]) * one[p[i]] for i in order]
        to_source = np.mean([ctr(mb[i] + 0.1, a, own[i]) for i in order])
        to_mixed = np.mean([ctr(mb[i] + 0.1, ma, weights(i)) for i in order])
        return scale * source, scale * to_source / 2, scale * to_mixed / 2

    return terms


CASES = [("sdmp", MIRRORED, SHARES, 1.0), ("patchmix", NEXT, HALF, 1 / (2 * T))]


@pytest.mark.parametrize("query", [0, 1])
@pytest.mark.parametrize(("name", "partner", "lam", "scale"), CASES, ids=["sdmp", "patchmix"])
def test_the_terms_are_the_papers(
    name: str, partner: torch.Tensor, lam: torch.Tensor, scale: float, query: int
) -> None:
    """Values, and gradients of the query side; keys have none."""
    method = method_on_rows("moco-v3", temperature=T)
    x = [rows(N, 5, seed).requires_grad_() for seed in range(4)]  # a, b, m_b, m_a
    views = (x[0], x[1]) if query == 1 else (x[1], x[0])
    pair = tuple(
        Mixed(view, images[:, :, None, None], partner, lam, name, key=key)
        for view, images, key in ((query, x[2], False), (1 - query, x[3], True))
    )
    batch = dataclasses.replace(batch_of(*views, None, LAM), mixed=pair)
    terms = method(batch)
    expected = loop(partner, lam, scale)
    arrays = [v.detach().numpy() for v in x]
    assert [float(v.detach()) for v in terms.values()] == pytest.approx(expected(*arrays))
    assert list(terms) == ["clean", f"mixed_{name}", f"mixed_{name}_to_mixed"]
    torch.stack(list(terms.values())).sum().backward()
    assert x[1].grad is None and x[3].grad is None  # b and m_a are keys alone
    for which, parts in ((0, slice(1)), (2, slice(1, 3))):  # as a key, view a has no gradient
        for place in ((0, 1), (4, 3)):
            slope = difference(
                lambda *given, parts=parts: sum(expected(*given)[parts]),
                [v.detach() for v in x],
                which,
                place,
            )
            assert float(x[which].grad[place]) == pytest.approx(slope, abs=1e-7)


@pytest.mark.parametrize("name", ["sdmp", "patchmix"])
def test_mixtures_that_are_the_views_give_the_one_way_loss(name: str) -> None:
    """Law 5: with lam = 1 both mixed terms are the loss of the view itself, halved."""
    case = Case("moco-v3", among=name)
    method, batch = build(case), make_batch(case, lam=torch.ones(case.rows))
    x0, x1 = batch.views
    q, k = method._query(x1), method._keys(x0)
    one_way = method._contrast(q, k)(q, k).mean()
    one_way = one_way if name == "sdmp" else one_way / (2 * method.temperature)
    _, to_source, to_mixed = method(batch).values()
    torch.testing.assert_close(2 * to_source, one_way)
    torch.testing.assert_close(2 * to_mixed, one_way)


def test_a_dry_run_counts_two_queries() -> None:
    """One clean and one mixed, as many as without a mixture; Un-Mix adds a third."""

    def activations(mix: str) -> int:
        config = resolve(parse(["--method", "moco-v3", "--mix", mix]), DATASETS["cifar10"], "no")
        method = build(Case("moco-v3"), torch.float32)
        plan = ViewPlan((View(32), View(32)), mixed=() if mix == "none" else (0,))
        return memory(config, method, plan, rows=16)[1]

    none = activations("none")
    assert 1.3 * none < activations("unmix")
    for mix in ("sdmp", "patchmix"):
        assert 0.9 * none < activations(mix) < 1.1 * none
