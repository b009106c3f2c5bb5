"""Law 6 for whitening and W-MSE: NumPy float64 loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from method_cases import Case, build, mirrored
from oracles import check, check_gradient, rows
from torch import Tensor, nn

from models.modules.whitening import whiten, whiten_in, with_partners
from pipelines.batch import Batch, Mixed

LAM = torch.tensor([0.3, 0.3, 0.3, 0.3, 0.9, 0.9, 0.9, 0.9], dtype=torch.float64)


def loop_whiten(x: np.ndarray, sub_batches: list[list[int]]) -> np.ndarray:
    out = np.empty_like(x)
    for members in sub_batches:
        mean = sum(x[i] for i in members) / len(members)
        covariance = sum(np.outer(x[i] - mean, x[i] - mean) for i in members) / (len(members) - 1)
        inverse = np.linalg.inv(np.linalg.cholesky(covariance))
        for i in members:
            out[i] = inverse @ (x[i] - mean)
    return out


def loop_gap(a: np.ndarray, b: np.ndarray) -> float:
    return 2 - 2 * (a @ b) / np.sqrt((a @ a) * (b @ b))


def test_whitening() -> None:
    x = rows(8, 3, 0, unit=False) @ rows(3, 3, 1, unit=False) + 2
    order = torch.tensor([3, 0, 6, 1, 7, 2, 5, 4])
    halves = [order[:4].tolist(), order[4:].tolist()]
    check(whiten_in(x, order, 4), loop_whiten(x.numpy(), halves))
    weight = rows(8, 3, 2, unit=False)

    def loop(x: np.ndarray) -> float:
        return float((loop_whiten(x, halves) * weight.numpy()).sum())

    check_gradient(lambda x: (whiten_in(x, order, 4) * weight).sum(), loop, x)
    white = whiten(x[None])[0]
    check(white.mean(0), np.zeros(3))
    check(white.T @ white / 7, np.eye(3))
    with torch.autocast("cpu", torch.bfloat16):
        assert whiten(x[None].bfloat16()).dtype == torch.float32


def test_a_sub_batch_that_cannot_be_whitened_is_nan_and_alone() -> None:
    flat = rows(4, 3, 3, unit=False)
    flat[:, 2] = 0
    white = whiten(torch.stack([flat, rows(4, 3, 4, unit=False)]))
    assert white[0].isnan().all() and white[1].isfinite().all()


def test_partners_share_a_sub_batch_and_reversing_commutes() -> None:
    place = torch.from_numpy(np.random.default_rng(0).permutation(16))
    partner = mirrored(16, 2)
    order = with_partners(place, partner)
    assert sorted(order.tolist()) == list(range(16))
    for pair in order.view(-1, 2):
        assert partner[pair[0]] == pair[1]
    assert with_partners(place, torch.arange(16)).equal(place.argsort())
    x = rows(16, 3, 5, unit=False)
    check(whiten_in(x[partner], order, 8), whiten_in(x, order, 8)[partner].numpy())


@pytest.mark.parametrize("views", [2, 4])
@pytest.mark.parametrize("mixed", [False, True])
def test_wmse(views: int, mixed: bool) -> None:
    """The whole loss on given embeddings; the reversed mixture by an explicit flip."""
    case = Case("wmse", (("dim", 3), ("sub_batch", 4), ("permutations", 2)), rows=8, groups=2)
    method = build(case)
    method.backbone, method.head = nn.Flatten(), nn.Identity()
    partner, index = mirrored(8, 2), torch.arange(8)
    z = [rows(8, 3, 10 + i, unit=False) for i in range(views)]
    m = rows(8, 3, 20, unit=False)

    def batch(m: Tensor, *z: Tensor) -> Batch:
        images = [x[:, :, None, None] for x in (m, *z)]
        mixtures = (Mixed(0, images[0], partner, LAM),) if mixed else ()
        return Batch(tuple(images[1:]), index, index, index, seed=0, step=3, mixed=mixtures)

    orders = [order.view(2, 4).tolist() for order in method._orders(batch(m, *z))]
    assert orders[0] != orders[1]

    def loop(m: np.ndarray, *z: np.ndarray) -> float:
        def agreement(views: list[np.ndarray], i: int) -> float:
            total = 0.0
            for order in orders:
                w = [loop_whiten(x, order) for x in views]
                pairs = [(a, b) for a in range(len(w)) for b in range(a)]
                total += sum(loop_gap(w[a][i], w[b][i]) for a, b in pairs) / len(pairs)
            return total / len(orders)

        value = 0.0
        for i, lam in enumerate(LAM.tolist()):
            value += agreement(list(z), i) / 8
            if mixed:
                back = m[partner.numpy()]
                value += lam * agreement([m, *z[1:]], i) / 8
                value += (1 - lam) * agreement([back, *z[1:]], i) / 8
        return value

    def loss(*inputs: Tensor) -> Tensor:
        return torch.stack(list(method(batch(*inputs)).values())).sum()

    check(loss(m, *z), loop(m.numpy(), *(x.numpy() for x in z)))
    if mixed:
        check_gradient(loss, loop, m, *z)
    else:
        check_gradient(lambda *z: loss(m, *z), lambda *z: loop(m.numpy(), *z), *z)
