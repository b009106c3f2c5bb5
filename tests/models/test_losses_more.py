"""Law 6 for the methods beyond the papers: plain NumPy float64 loops written from the formulas.

Each is checked as the method computes it, from embeddings to the terms, values and gradients, with
a mixture and without. ``test_methods.py`` and ``test_distributed.py`` hold the other laws.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from method_cases import CROPS, Case, TinyNet, build, make_batch
from torch import Tensor, nn

from models import losses
from models.methods import METHODS, build_method
from models.methods.barlow import barlow, standardise
from models.methods.dino import Dino, assignment
from models.methods.moco_v3 import contrast
from models.methods.simsiam import negative_cosine
from models.methods.vicreg import covariance, squared_distance, variance
from models.optim import LrScale, create_optimizer
from pipelines.batch import Batch, Mixed

N, D, K = 6, 5, 7
PARTNER = torch.tensor([2, 1, 0, 5, 4, 3])
LAM = torch.tensor([0.3, 0.3, 0.3, 0.9, 0.9, 0.9], dtype=torch.float64)
ONE_LAM = torch.full((N,), 0.3, dtype=torch.float64)
Array = np.ndarray


def rows(n: int, d: int, seed: int) -> Tensor:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x * (1 + torch.arange(d)) / 2 + 0.3


class Identity(nn.Module):
    """A backbone for which images are features: (n, d, 1, 1) -> (n, d)."""

    num_features = D

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class Shift(nn.Module):
    """Stands in for a head: what the loss does is what counts."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by


def method_on_rows(name: str, **options: Any) -> Any:
    """The method with nothing between images and embeddings.

    A predictor adds 0.1, DINO's teacher 0.2, so that no branch can stand in for another.
    """
    more = {"prototypes": K} if name == "dino" else {}
    config = METHODS[name].settings(dim=D, hidden=D, **more, **options)
    torch.manual_seed(0)
    method = build_method(
        name, config, Identity(), bn="sync", group_size=3, batch_size=N,
        seed=0, steps_per_epoch=4, num_views=2,
    ).double()  # fmt: skip
    method.head = nn.Identity()
    if name in ("simsiam", "moco-v3"):
        method.predictor = Shift(0.1)
    if name == "moco-v3":
        method.key_encoder = Identity()
    if name == "dino":
        method.teacher[0], method.teacher[1] = Identity(), Shift(0.2)
    return method


def batch_of(x0: Tensor, x1: Tensor, xm: Tensor | None, lam: Tensor = LAM, step: int = 2) -> Batch:
    def images(x: Tensor) -> Tensor:
        return x[:, :, None, None]

    place = torch.arange(N)
    mixed = () if xm is None else (Mixed(0, images(xm), PARTNER, lam),)
    return Batch((images(x0), images(x1)), place, place, place, seed=0, step=step, mixed=mixed)


def cos(u: Array, v: Array) -> float:
    return float(u @ v / np.sqrt(u @ u) / np.sqrt(v @ v))


# --- the formulas, as loops over embeddings -----------------------------------------------------


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


# --- each method against its loop ---------------------------------------------------------------


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


STOPPED = {"simsiam": "targets", "moco-v3": "keys"}
"""Where gradients stop, finite differences of the whole loss are not the gradient."""


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


def difference(
    loop: Callable[..., float], x: list[Tensor], which: int, place: tuple[int, int]
) -> float:
    """The central difference of a loop in one number of one input."""
    sides = []
    for sign in (1, -1):
        arrays = [v.numpy().copy() for v in x]
        arrays[which][place] += sign * 1e-5
        sides.append(loop(*arrays))
    return (sides[0] - sides[1]) / 2e-5


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
        lambda a, b: barlow(standardise(a), standardise(b), 0.02),
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


# --- DINO ---------------------------------------------------------------------------------------


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
    """Values and the student's gradient, after the teacher and its centre have moved away."""
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


def test_dino_s_centre_moves_after_the_step_only() -> None:
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


# --- heads and rates ----------------------------------------------------------------------------


def test_heads_are_the_papers() -> None:
    def shape(name: str, **options: Any) -> list[str]:
        config = METHODS[name].settings(dim=8, hidden=16, **options)
        method = build_method(
            name, config, TinyNet(), bn="sync", group_size=4, batch_size=16,
            seed=0, steps_per_epoch=2,
        )  # fmt: skip
        out = []
        for layer in method.head:
            affine = getattr(layer, "weight", None) is not None
            out.append(
                f"{layer.in_features}-{layer.out_features}{'b' if layer.bias is not None else ''}"
                if isinstance(layer, nn.Linear)
                else type(layer).__name__ + ("" if affine or not hasattr(layer, "weight") else "0")
            )
        return out

    norm = ["BatchNorm", "ReLU"]
    assert shape("simsiam") == ["16-8", *norm, "8-8", *norm, "8-8", "BatchNorm0"]
    assert shape("simsiam", layers=2) == ["16-8", *norm, "8-8", "BatchNorm0"]
    assert shape("barlow") == ["16-16", *norm, "16-16", *norm, "16-8"]
    assert shape("vicreg") == shape("barlow")
    assert shape("moco-v3") == ["16-16", *norm, "16-8", "BatchNorm0"]
    assert shape("dino") == ["16-16b", "GELU", "16-16b", "GELU", "16-8b"]


def test_rates_of_parameters() -> None:
    """SimSiam's predictor keeps its rate; Barlow's biases and batch norm have a smaller one."""

    def groups(name: str, **options: Any) -> dict[str, LrScale]:
        method = build(Case(name, tuple(options.items())))
        optimizer = create_optimizer(method, "lars", 0.1, 1e-4, lr_scale=method.lr_scale)
        names = {id(p): key for key, p in method.named_parameters()}
        return {
            names[id(p)]: LrScale(group["share"], group["scheduled"])
            for group in optimizer.param_groups
            for p in group["params"]
        }

    simsiam = groups("simsiam")
    assert all(r.scheduled != key.startswith("predictor.") for key, r in simsiam.items())
    assert all(r.scheduled for r in groups("simsiam", constant_predictor_lr=False).values())
    shares = groups("barlow")
    assert shares["backbone.layers.0.weight"].share == shares["head.0.weight"].share == 1
    assert shares["backbone.layers.1.weight"].share == shares["head.1.bias"].share == 0.0015
    assert set(groups("vicreg").values()) == {LrScale()}


@pytest.mark.parametrize("name", ["moco-v3", "dino"])
def test_followers_start_equal_and_follow(name: str) -> None:
    method = build(Case(name, (("momentum", 0.5),), sizes=CROPS if name == "dino" else (8, 8)))
    online, follower = [method.backbone, method.head], [getattr(method, "key_encoder", None)]
    if name == "dino":
        online.append(method.prototypes)
        follower = [method.teacher, method.teacher_prototypes]
    fast = [p for part in online for p in part.parameters()]
    slow = [p for part in follower for p in part.parameters()]
    start = [p.detach().clone() for p in slow]
    assert all(a.equal(b) for a, b in zip(slow, fast, strict=True))
    with torch.no_grad():
        for p in fast:
            p.add_(1.0)
    for progress in (0.0, 1.0):  # the momentum has risen to 1 at the end
        method.after_step(progress)
        for p, before in zip(slow, start, strict=True):
            torch.testing.assert_close(p.detach(), before + 0.5, rtol=0, atol=1e-12)
