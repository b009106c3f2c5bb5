"""DINO against a NumPy float64 loop; its centre, temperature and frozen prototypes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from embedding_cases import (
    LAM,
    PARTNER,
    Array,
    D,
    K,
    N,
    batch_of,
    cos,
    difference,
    method_on_rows,
    rows,
)
from method_cases import CROPS, Case, build, make_batch

from models import losses
from models.methods.dino import Dino, assignment


def loop_dino(method: Dino, student: list[Array], teacher: list[Array], t: float) -> Array:
    """H[a][v] of each row: teacher view a, student view v, (a, v, n)."""
    w, c = method.prototypes.weight.detach().numpy(), method.centre.value.numpy()
    w_t = method.teacher_prototypes.weight.numpy()
    out = np.zeros((len(teacher), len(student), N))
    for a, x in enumerate(teacher):
        for v, y in enumerate(student):
            for i in range(N):
                e = np.exp([(cos(x[i] + 0.2, w_t[k]) - c[k]) / t for k in range(K)])
                s = np.exp([cos(y[i], w[k]) / 0.1 for k in range(K)])
                for k in range(K):
                    out[a, v, i] -= e[k] / e.sum() * np.log(s[k] / s.sum())
    return out


def test_dino_is_its_formula() -> None:
    """Values and the student's gradient, after the teacher and its center have moved away."""
    x = [rows(N, D, seed) for seed in (14, 15, 16)]
    method = method_on_rows("dino", temperature_epochs=2)
    with torch.no_grad():
        method.centre.value.copy_(rows(K, 1, 17)[:, 0] / 20)
        method.teacher_prototypes.weight.add_(rows(K, D, 18) / 10)
    t = 0.04 + 0.03 * 2 / 8  # step 2 of a warm-up of 8

    def loop(*a: Array) -> tuple[float, float]:
        h = loop_dino(method, list(a), [x[0].numpy(), x[1].numpy()], t)
        swapped = loop_dino(
            method, list(a), [x[r].numpy()[PARTNER] for r in (0, 1)], t
        )  # codes of the partners
        lam = LAM.numpy()
        mixed = lam * h[1, 2] + (1 - lam) * swapped[1, 2]  # the pair (1, 0) alone has a mixture
        return float((h[0, 1] + h[1, 0]).mean() / 2), float(mixed.mean())

    leaves = [v.clone().requires_grad_() for v in x]
    terms = method(batch_of(*leaves))
    for value, expected in zip(terms.values(), loop(*(v.numpy() for v in x)), strict=True):
        assert abs(float(value.detach()) - expected) < 1e-9
    sum(terms.values()).backward()
    for i, leaf in enumerate(leaves):
        assert leaf.grad is not None
        for place in [(0, 0), (3, 2)]:
            slope = difference(lambda *a: sum(loop(*a)), x, i, place)
            assert abs(float(leaf.grad[place]) - slope) < 1e-6


def test_dino_s_center_moves_after_the_step_only() -> None:
    method = method_on_rows("dino")
    x0, x1, xm = (rows(N, D, seed) for seed in (19, 20, 21))
    expected = np.zeros(K)
    w = losses.unit(method.teacher_prototypes.weight)
    for step in range(3):
        for _ in range(2):  # a repeated forward changes nothing
            method(batch_of(x0, x1, xm, step=step))
            np.testing.assert_allclose(method.centre.value.numpy(), expected, rtol=0, atol=1e-12)
        scores = losses.unit(torch.cat([x0, x1]) + 0.2) @ w.T
        expected = 0.9 * expected + 0.1 * scores.mean(0).numpy()
        method.centre.commit()
    np.testing.assert_allclose(method.centre.value.numpy(), expected, rtol=0, atol=1e-12)


def test_assignment_of_bfloat16_scores_is_single_precision() -> None:
    g = rows(N, K, 22).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        p = assignment(g, torch.zeros(K), 0.04)
    assert p.dtype == torch.float32
    torch.testing.assert_close(p.sum(1), torch.ones(N))


def test_dino_s_teacher_temperature() -> None:
    """A line over temperature_epochs (4 steps each here), then constant; none: constant at once."""
    method = method_on_rows("dino", temperature_epochs=2)
    found = [method.teacher_temperature(step) for step in (0, 4, 8, 99)]
    assert found == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert method_on_rows("dino", temperature_epochs=0).teacher_temperature(0) == 0.07


def test_dino_s_prototypes_wait_for_the_second_epoch() -> None:
    """No gradient (not a zero one, which weight decay and momentum would move) for 2 steps."""
    case = Case("dino", sizes=CROPS)
    method = build(case)
    for step in range(4):
        sum(method(make_batch(case, step)).values()).backward()
        method.after_backward()
        assert (method.prototypes.weight.grad is None) == (step < 2)
        assert all(p.grad is not None for p in method.head.parameters())
        assert all(p.grad is None for p in method.teacher.parameters())
        method.zero_grad()
