"""Law 6 for SimSiam, MoCo v3, Barlow Twins and VICReg: NumPy float64 loops from the formulas.

Each method is checked from embeddings to loss terms, values and gradients, with and without a
mixture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from embedding_cases import (
    LAM,
    ONE_LAM,
    PARTNER,
    Array,
    D,
    N,
    batch_of,
    cos,
    difference,
    method_on_rows,
    rows,
)
from torch import Tensor

from models import losses
from models.methods.barlow import cross_correlation, standardize
from models.methods.moco_v3 import contrast
from models.methods.simsiam import negative_cosine
from models.methods.vicreg import covariance, squared_distance, variance


def loop_simsiam(a: Array, b: Array) -> Array:
    """-cos(p(a), b) / 2 - cos(p(b), a) / 2, a row each."""
    return np.array([-cos(u + 0.1, v) / 2 - cos(v + 0.1, u) / 2 for u, v in zip(a, b, strict=True)])


def loop_ctr(q: Array, keys: Array, positive: int, t: float) -> float:
    e = [np.exp(cos(q, k) / t) for k in keys]
    return -2 * t * np.log(e[positive] / sum(e))


def loop_barlow(a: Array, b: Array, weight: float) -> float:
    def normed(z: Array) -> Array:
        out = np.empty_like(z)
        for d in range(D):
            mean = sum(z[:, d]) / N
            out[:, d] = (z[:, d] - mean) / np.sqrt(sum((z[:, d] - mean) ** 2) / N + 1e-5)
        return out

    a, b, loss = normed(a), normed(b), 0.0
    for i in range(D):
        for j in range(D):
            c = sum(a[n, i] * b[n, j] for n in range(N)) / N
            loss += (1 - c) ** 2 if i == j else weight * c**2
    return loss


def loop_spread(z: Array) -> float:
    """25 v(z) / 2 + c(z)."""
    mean = [sum(z[:, d]) / N for d in range(D)]

    def cov(i: int, j: int) -> float:
        return sum((z[n, i] - mean[i]) * (z[n, j] - mean[j]) for n in range(N)) / (N - 1)

    v = sum(max(0.0, 1 - np.sqrt(cov(d, d) + 1e-4)) for d in range(D)) / D
    return 25 * v / 2 + sum(cov(i, j) ** 2 for i in range(D) for j in range(D) if i != j) / D


def loop_vicreg(a: Array, b: Array) -> float:
    mse = sum((a[n, d] - b[n, d]) ** 2 for n in range(N) for d in range(D)) / N / D
    return 25 * mse + loop_spread(a) + loop_spread(b)


def terms_loop(name: str, x0: Array, x1: Array, xm: Array, lam: Array) -> tuple[float, float]:
    """The clean and the mixed term of a method, from the formulas."""
    j = PARTNER.numpy()
    if name == "simsiam":
        mixed = np.mean(loop_simsiam_on_mixture(xm, x1, lam))
        return float(np.mean(loop_simsiam(x0, x1))), float(mixed)
    if name == "moco-v3":
        t, order = 0.4, range(N)
        clean = np.mean([loop_ctr(x0[i] + 0.1, x1, i, t) for i in order])
        clean += np.mean([loop_ctr(x1[i] + 0.1, x0, i, t) for i in order])
        mixed = 0.0
        for keys in (x1, x0):
            for i in order:
                own, other = (loop_ctr(xm[i] + 0.1, keys, r, t) for r in (i, j[i]))
                mixed += (lam[i] * own + (1 - lam[i]) * other) / N
        return float(clean), mixed
    if name == "barlow":  # both orders, as two whole losses
        both = lam[0] * loop_barlow(xm, x1, 0.02) + (1 - lam[0]) * loop_barlow(xm[j], x1, 0.02)
        return loop_barlow(x0, x1, 0.02), both
    clean = loop_vicreg(x0, x1)
    if len(set(lam)) == 1:
        return clean, lam[0] * loop_vicreg(xm, x1) + (1 - lam[0]) * loop_vicreg(xm[j], x1)
    mse = 0.0
    for i in range(N):
        own, other = ((xm[i] - x1[r]) ** 2 for r in (i, j[i]))
        mse += sum(lam[i] * own + (1 - lam[i]) * other) / N / D
    return clean, 25 * mse + loop_spread(xm) + loop_spread(x1)


def loop_simsiam_on_mixture(m: Array, k: Array, lam: Array) -> Array:
    out = []
    for i, j in enumerate(PARTNER.tolist()):
        own = -cos(m[i] + 0.1, k[i]) / 2 - cos(k[i] + 0.1, m[i]) / 2
        other = -cos(m[i] + 0.1, k[j]) / 2 - cos(k[j] + 0.1, m[i]) / 2
        out.append(lam[i] * own + (1 - lam[i]) * other)
    return np.array(out)


OPTIONS = {"moco-v3": {"temperature": 0.4}, "barlow": {"off_diagonal": 0.02}}
SHARES = [("simsiam", LAM), ("moco-v3", LAM), ("barlow", ONE_LAM), ("vicreg", ONE_LAM)]
SHARES += [("vicreg", LAM)]


@pytest.mark.parametrize(("name", "lam"), SHARES, ids=lambda x: x if isinstance(x, str) else "")
def test_terms_are_the_formulas(name: str, lam: Tensor) -> None:
    x0, x1, xm = (rows(N, D, seed) for seed in (0, 1, 2))
    method = method_on_rows(name, **OPTIONS.get(name, {}))
    terms = method(batch_of(x0, x1, xm, lam))
    expected = terms_loop(name, x0.numpy(), x1.numpy(), xm.numpy(), lam.numpy())
    assert list(terms) == ["clean", "mixed_0"]
    for value, loop in zip(terms.values(), expected, strict=True):
        assert abs(float(value.detach()) - loop) < 1e-9
    assert list(method(batch_of(x0, x1, None))) == ["clean"]


@pytest.mark.parametrize("name", ["barlow", "vicreg"])
def test_gradients_of_terms(name: str) -> None:
    """Autograd of each term against central differences of the loop, in all three inputs."""
    x = [rows(N, D, seed) for seed in (3, 4, 5)]
    method = method_on_rows(name, **OPTIONS.get(name, {}))
    for term in (0, 1):
        leaves = [v.clone().requires_grad_() for v in x]
        list(method(batch_of(*leaves, ONE_LAM)).values())[term].backward()
        for i, leaf in enumerate(leaves):
            gradient = torch.zeros(N, D) if leaf.grad is None else leaf.grad
            for place in [(0, 0), (3, 2), (5, 4)]:
                slope = difference(
                    lambda *a, term=term: terms_loop(name, *a, ONE_LAM.numpy())[term], x, i, place
                )
                assert abs(float(gradient[place]) - slope) < 1e-6


PAIRS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Array, Array], Any]]] = {
    "negative_cosine": (
        negative_cosine,
        lambda p, z: [-cos(u, v) for u, v in zip(p, z, strict=True)],
    ),
    "contrast": (
        lambda q, k: contrast(q, k, losses.log_negatives(q, k, 0.4), 0.4),
        lambda q, k: [loop_plain_ctr(q[i], k, i) for i in range(N)],
    ),
    "squared_distance": (
        squared_distance,
        lambda a, b: [((u - v) ** 2).mean() for u, v in zip(a, b, strict=True)],
    ),
    "spread": (
        lambda a, b: 12.5 * variance(a) + covariance(a) + 0 * b.sum(),
        lambda a, b: loop_spread(a),
    ),
    "barlow": (
        lambda a, b: cross_correlation(standardize(a), standardize(b), 0.02),
        lambda a, b: loop_barlow(a, b, 0.02),
    ),
}


def loop_plain_ctr(q: Array, keys: Array, positive: int) -> float:
    e = [np.exp(q @ k / 0.4) for k in keys]
    return -0.8 * np.log(e[positive] / sum(e))


@pytest.mark.parametrize("name", PAIRS)
def test_losses_of_pairs(name: str) -> None:
    """Values and gradients of the functions themselves, in both arguments."""
    loss, loop = PAIRS[name]
    x = [rows(N, D, 6) / 3, rows(N, D, 7) / 3]
    np.testing.assert_allclose(loss(*x).numpy(), loop(*(v.numpy() for v in x)), rtol=0, atol=1e-10)
    leaves = [v.clone().requires_grad_() for v in x]
    loss(*leaves).mean().backward()
    for i, leaf in enumerate(leaves):
        assert leaf.grad is not None
        for place in [(0, 0), (3, 2), (5, 4)]:
            slope = difference(lambda *a: float(np.mean(loop(*a))), x, i, place)
            assert abs(float(leaf.grad[place]) - slope) < 1e-6


STOPPED = {"simsiam": "targets", "moco-v3": "keys"}
"""Where gradients stop, finite differences of the whole loss are not the gradient."""


@pytest.mark.parametrize("name", STOPPED)
def test_gradients_stop_at_targets(name: str) -> None:
    """The gradient is that of the loss in which the targets are numbers."""
    x0, x1, xm = (rows(N, D, seed).requires_grad_() for seed in (8, 9, 10))
    method = method_on_rows(name, **OPTIONS.get(name, {}))
    terms = method(batch_of(x0, x1, xm))
    mine = torch.autograd.grad(sum(terms.values()), (x0, x1, xm))
    target = [v.detach().clone() for v in (x0, x1, xm)]

    def pair(p: Tensor, z: Tensor) -> Tensor:
        if name == "simsiam":
            return negative_cosine(p + 0.1, z) / 2
        q, k = losses.unit(p + 0.1), losses.unit(z)
        return 0.8 * torch.nn.functional.cross_entropy(q @ k.T / 0.4, order, reduction="none")

    order = torch.arange(N)
    loss = (pair(x0, target[1]) + pair(x1, target[0])).mean()
    if name == "simsiam":
        loss = loss + (LAM * (pair(xm, target[1]) + pair(x1, target[2]))).mean()
        back = pair(xm, target[1][PARTNER]) + pair(x1[PARTNER], target[2])
        loss = loss + ((1 - LAM) * back).mean()
    else:
        own = pair(xm, target[1]) + pair(xm, target[0])
        order = PARTNER
        partners = pair(xm, target[1]) + pair(xm, target[0])
        loss = loss + (LAM * own + (1 - LAM) * partners).mean()
    for a, b in zip(mine, torch.autograd.grad(loss, (x0, x1, xm)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_vicreg_of_one_lam_is_both_orders_as_whole_losses() -> None:
    """Also barlow's: what row form says equals ``lam L(m, k) + (1 - lam) L(m[partner], k)``."""
    x0, x1, xm = (rows(N, D, seed) for seed in (11, 12, 13))
    for name in ("barlow", "vicreg"):
        method = method_on_rows(name)
        mixed = method(batch_of(x0, x1, xm, ONE_LAM))["mixed_0"]
        whole = [method(batch_of(m, x1, None))["clean"] for m in (xm, xm[PARTNER])]
        torch.testing.assert_close(mixed, 0.3 * whole[0] + 0.7 * whole[1], rtol=0, atol=1e-10)
