"""Law 6: the losses of InfoNCE, NT-Xent, BYOL and SwAV against NumPy float64 loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import check, check_gradient, rows
from torch import Tensor

from models import losses
from models.losses.view_pairs import cross_entropy_on_mixture
from models.methods.simclr import nt_xent, nt_xent_on_mixture
from models.modules.prototypes import sinkhorn
from pipelines.batch import Mixed

N, D, K = 6, 5, 7
PARTNER = torch.tensor([2, 1, 0, 5, 4, 3])
LAM = torch.tensor([0.3, 0.3, 0.3, 0.9, 0.9, 0.9], dtype=torch.float64)


def loop_info_nce(q: np.ndarray, k: np.ndarray, queue: np.ndarray, t: float) -> np.ndarray:
    out = []
    for i in range(len(q)):
        positive = np.exp(q[i] @ k[i] / t)
        negative = sum(np.exp(q[i] @ row / t) for row in queue)
        out.append(-np.log(positive / (positive + negative)))
    return np.array(out)


def test_info_nce() -> None:
    q, k, queue = rows(N, D, 0), rows(N, D, 1), rows(11, D, 2)

    def loss(q: Tensor, k: Tensor) -> Tensor:
        return losses.info_nce(q, k, losses.log_negatives(q, queue, 0.2), 0.2)

    def loop(q: np.ndarray, k: np.ndarray) -> np.ndarray:
        return loop_info_nce(q, k, queue.numpy(), 0.2)

    check(loss(q, k), loop(q.numpy(), k.numpy()))
    check_gradient(loss, loop, q, k)


def loop_nt_xent_pair(
    u: np.ndarray, v: np.ndarray, i: int, j: int, t: float
) -> float:  # anchor u_i, positive v_j
    below = sum(np.exp(u[i] @ v[c] / t) for c in range(len(v)))
    below += sum(np.exp(u[i] @ u[c] / t) for c in range(len(u)) if c != i)
    return -np.log(np.exp(u[i] @ v[j] / t) / below)


def loop_nt_xent(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    pair = loop_nt_xent_pair
    return np.array([(pair(a, b, i, i, t) + pair(b, a, i, i, t)) / 2 for i in range(len(a))])


def test_nt_xent() -> None:
    a, b, place = rows(N, D, 3), rows(N, D, 4), torch.arange(N)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return nt_xent(a, b, a, b, place, 0.3)

    def loop(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return loop_nt_xent(a, b, 0.3)

    check(loss(a, b), loop(a.numpy(), b.numpy()))
    check_gradient(loss, loop, a, b)
    half = nt_xent(a[3:], b[3:], a, b, place[3:], 0.3)  # one rank's rows
    check(half, loop(a.numpy(), b.numpy())[3:])


def test_nt_xent_on_mixture_is_both_orders_weighted() -> None:
    m, k, place = rows(N, D, 5), rows(N, D, 6), torch.arange(N)
    partner, lam = PARTNER.numpy(), LAM.numpy()

    def loss(m: Tensor, k: Tensor) -> Tensor:
        return nt_xent_on_mixture(m, k, m, k, place, PARTNER, LAM, 0.3)

    def loop(m: np.ndarray, k: np.ndarray) -> np.ndarray:
        out = []
        for i, j in enumerate(partner):
            own = loop_nt_xent_pair(m, k, i, i, 0.3) + loop_nt_xent_pair(k, m, i, i, 0.3)
            swapped = loop_nt_xent_pair(m, k, i, j, 0.3) + loop_nt_xent_pair(k, m, j, i, 0.3)
            out.append((lam[i] * own + (1 - lam[i]) * swapped) / 2)
        return np.array(out)

    check(loss(m, k), loop(m.numpy(), k.numpy()))
    check_gradient(loss, loop, m, k)
    # spec 1.4: lam M(m) + (1 - lam) M(reversed m), as two whole losses
    reverse = torch.arange(N).flip(0)
    lam = torch.full((N,), 0.7, dtype=torch.float64)
    one = nt_xent_on_mixture(m, k, m, k, place, reverse, lam, 0.3).mean()
    back = m.flip(0)
    two = 0.7 * nt_xent(k, m, k, m, place, 0.3) + 0.3 * nt_xent(k, back, k, back, place, 0.3)
    torch.testing.assert_close(one, two.mean(), rtol=0, atol=1e-12)


def test_cosine_gap() -> None:
    p, t = rows(N, D, 7, unit=False), rows(N, D, 8, unit=False)

    def loop(p: np.ndarray, t: np.ndarray) -> np.ndarray:
        out = [2 - 2 * (a @ b) / np.sqrt((a @ a) * (b @ b)) for a, b in zip(p, t, strict=True)]
        return np.array(out)

    check(losses.cosine_gap(p, t), loop(p.numpy(), t.numpy()))
    check_gradient(losses.cosine_gap, loop, p, t)


def loop_sinkhorn(s: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    q = np.exp(s / epsilon).T
    k, n = q.shape
    q /= q.sum()
    for _ in range(iterations):
        for c in range(k):
            q[c] /= q[c].sum() * k
        for i in range(n):
            q[:, i] /= q[:, i].sum() * n
    return q.T * n


def test_sinkhorn() -> None:
    s = rows(N, D, 9) @ rows(K, D, 10).T
    code = sinkhorn(s, 0.05, 3)
    check(code, loop_sinkhorn(s.numpy(), 0.05, 3))
    torch.testing.assert_close(code.sum(1), torch.ones(N, dtype=torch.float64))
    assert sinkhorn(s.bfloat16(), 0.05, 3).dtype == torch.float32
    absent = torch.full((4, K), -torch.inf, dtype=torch.float64)
    joined = sinkhorn(torch.cat([s, absent]), 0.05, 3)
    torch.testing.assert_close(joined[:N], code, rtol=0, atol=1e-14)
    assert (joined[N:] == 0).all()
    check(sinkhorn(s.flip(0), 0.05, 3).flip(0), code.numpy())  # spec 1.4 (c)


def loop_cross_entropy(code: np.ndarray, scores: np.ndarray, t: float) -> np.ndarray:
    out = []
    for q, s in zip(code, scores, strict=True):
        p = np.exp(s / t) / np.exp(s / t).sum()
        out.append(-sum(a * np.log(b) for a, b in zip(q, p, strict=True)))
    return np.array(out)


def test_swav() -> None:
    code, scores = rows(N, K, 11, unit=False).softmax(1), rows(N, K, 12)

    def loss(scores: Tensor) -> Tensor:
        return losses.cross_entropy(code, losses.log_assignment(scores, 0.1))

    def loop(scores: np.ndarray) -> np.ndarray:
        return loop_cross_entropy(code.numpy(), scores, 0.1)

    check(loss(scores), loop(scores.numpy()))
    check_gradient(loss, loop, scores)


@pytest.mark.parametrize("code_mixed", [False, True])
@pytest.mark.parametrize("p_mixed", [False, True])
def test_swav_on_mixture(code_mixed: bool, p_mixed: bool) -> None:
    code, scores = rows(N, K, 13, unit=False).softmax(1), rows(N, K, 14)
    log_p = losses.log_assignment(scores, 0.1)
    mixed = Mixed(0, torch.zeros(N, 3, 1, 1), PARTNER, LAM)
    code_mixture, p_mixture = (mixed if code_mixed else None), (mixed if p_mixed else None)
    q, s, lam, j = code.numpy(), scores.numpy(), LAM.numpy(), PARTNER.numpy()
    plain = loop_cross_entropy(q, s, 0.1)
    formula = plain
    if code_mixed and not p_mixed:
        formula = lam * plain + (1 - lam) * loop_cross_entropy(q, s[j], 0.1)
    if p_mixed and not code_mixed:
        formula = lam * plain + (1 - lam) * loop_cross_entropy(q[j], s, 0.1)
    check(cross_entropy_on_mixture(code, log_p, code_mixture, p_mixture), formula)


def test_on_mixture() -> None:
    q, k = rows(N, D, 15), rows(N, D, 16)
    mixed = Mixed(0, torch.zeros(N, 3, 1, 1), PARTNER, LAM)
    loop = []
    for i, j in enumerate(PARTNER.tolist()):
        own, other = (2 - 2 * float(q[i] @ k[r]) for r in (i, j))
        loop.append(float(LAM[i]) * own + (1 - float(LAM[i])) * other)
    check(losses.on_mixture(losses.cosine_gap, q, k, mixed), np.array(loop))
    extra = torch.cat([k, rows(2, D, 17)])  # keys may have rows of their own below (CLIM)
    check(losses.on_mixture(losses.cosine_gap, q, extra, mixed), np.array(loop))


def test_half_precision_under_autocast_is_widened() -> None:
    q, k, queue = rows(N, D, 0), rows(N, D, 1), rows(11, D, 2)
    with torch.autocast("cpu", torch.bfloat16):
        half = [x.bfloat16() for x in (q, k, queue)]
        value = losses.info_nce(*half[:2], losses.log_negatives(half[0], half[2], 0.2), 0.2)
        assert value.dtype == torch.float32
        assert nt_xent(half[0], half[1], half[0], half[1], torch.arange(N), 0.1).dtype == (
            torch.float32
        )
        exact = [x.float() for x in (q, k, queue)]
        value = losses.info_nce(*exact[:2], losses.log_negatives(exact[0], exact[2], 0.2), 0.2)
    assert (
        value - torch.tensor(loop_info_nce(q.numpy(), k.numpy(), queue.numpy(), 0.2))
    ).abs().max() < 1e-5
