"""Law 6 for whitening, memory banks, colour spaces and SwAV as released: NumPy float64 loops."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.color
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from method_cases import CROPS, RELEASED, Case, build, make_batch, mirrored

from models.losses.view_pairs import in_both_orders
from models.modules.color import SPACES, lightness_and_color
from models.modules.memory_bank import (
    MemoryBank,
    MemoryBankConfig,
    sample_negatives,
    nce_loss,
    candidate_scores,
    softmax_loss,
)
from models.modules.whitening import whiten, whiten_in, with_partners
from pipelines.batch import Batch, Mixed

LAM = torch.tensor([0.3, 0.3, 0.3, 0.3, 0.9, 0.9, 0.9, 0.9], dtype=torch.float64)


def rows(n: int, d: int, seed: int, unit: bool = True) -> Tensor:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(x, dim=1) if unit else x


def check(value: Tensor, loop: np.ndarray | float, atol: float = 1e-10) -> None:
    np.testing.assert_allclose(value.detach().numpy(), loop, rtol=0, atol=atol)


def check_gradient(
    loss: Callable[..., Tensor], loop: Callable[..., float], *inputs: Tensor
) -> None:
    """Autograd of a scalar against central differences of the loop."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    loss(*leaves).backward()
    arrays = [x.numpy().copy() for x in inputs]
    for leaf, array in zip(leaves, arrays, strict=True):
        assert leaf.grad is not None
        for place in [(0, 0), (3, 2), (7, 1)]:
            sides = []
            for sign in (1, -1):
                array[place] += sign * 1e-5
                sides.append(loop(*arrays))
                array[place] -= sign * 1e-5
            assert abs(float(leaf.grad[place]) - (sides[0] - sides[1]) / 2e-5) < 1e-6


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


def loop_nce(f: np.ndarray, bank: np.ndarray, picked: np.ndarray, z: float) -> np.ndarray:
    out, k = [], picked.shape[1] - 1
    noise = k / len(bank)
    for i in range(len(f)):
        x = [np.exp(f[i] @ bank[j] / 0.3) / z for j in picked[i]]
        value = -np.log(x[0] / (x[0] + noise + 1e-7))
        for other in x[1:]:
            value -= np.log(noise / (other + noise + 1e-7))
        out.append(value)
    return np.array(out)


def loop_softmax(f: np.ndarray, bank: np.ndarray, picked: np.ndarray) -> np.ndarray:
    out = []
    for i in range(len(f)):
        x = [np.exp(f[i] @ bank[j] / 0.3) for j in picked[i]]
        out.append(-np.log(x[0] / sum(x)))
    return np.array(out)


def test_bank_losses() -> None:
    f, bank = rows(8, 4, 30), rows(20, 4, 31)
    picked = torch.from_numpy(np.random.default_rng(0).integers(20, size=(8, 7)))
    z = torch.tensor(33.0, dtype=torch.float64)

    def nce(f: Tensor) -> Tensor:
        return nce_loss(candidate_scores(f, bank, picked) / 0.3, z, 20)

    def softmax(f: Tensor) -> Tensor:
        return softmax_loss(candidate_scores(f, bank, picked) / 0.3)

    def of_nce(f: np.ndarray) -> np.ndarray:
        return loop_nce(f, bank.numpy(), picked.numpy(), 33.0)

    def of_softmax(f: np.ndarray) -> np.ndarray:
        return loop_softmax(f, bank.numpy(), picked.numpy())

    for loss, loop in ((nce, of_nce), (softmax, of_softmax)):
        check(loss(f), loop(f.numpy()))
        check_gradient(lambda f, loss=loss: loss(f).mean(), lambda f, loop=loop: loop(f).mean(), f)
    half = nce_loss((candidate_scores(f, bank, picked) / 0.3).bfloat16(), z.float(), 20)
    assert half.dtype == torch.float32


@pytest.mark.parametrize("softmax", [False, True])
def test_a_bank_over_steps(softmax: bool) -> None:
    """Loss, frozen Z, and the rows that move, against a loop over three steps."""
    config = MemoryBankConfig(dim=4, negatives=6, temperature=0.3, momentum=0.25, softmax=softmax)
    bank = MemoryBank(20, config, torch.Generator().manual_seed(0)).double()
    assert bank.rows.abs().max() < 1 / np.sqrt(4 / 3)
    copy, z = bank.rows.numpy().copy(), None
    for step in range(3):
        f, index = rows(8, 4, 40 + step), torch.arange(8) + 4 * step
        batch = Batch((), index, index, torch.arange(8), seed=1, step=step)
        picked = bank.candidates(batch).numpy()
        assert (picked[:, 0] == index.numpy()).all()
        if z is None:
            every = [np.exp(f[i].numpy() @ copy[j] / 0.3) for i in range(8) for j in picked[i]]
            z = np.mean(every) * 20
        loop = loop_softmax(f.numpy(), copy, picked)
        check(
            bank.contrast(f, bank.candidates(batch)),
            loop if softmax else loop_nce(f.numpy(), copy, picked, z),
        )
        bank.stage(f, batch)
        check(bank.rows, copy)  # only the step's end writes
        bank.commit()
        for i, row in enumerate(index.tolist()):
            moved = 0.25 * copy[row] + 0.75 * f[i].numpy()
            copy[row] = moved / np.sqrt(moved @ moved)
        check(bank.rows, copy)
        assert float(bank.partition) == pytest.approx(0 if softmax else z)


def test_negatives_are_uniform_and_of_their_place_alone() -> None:
    drawn = sample_negatives(3, 5, torch.arange(64), 1000, 10)
    counts = torch.bincount(drawn.flatten(), minlength=10)
    assert drawn.min() == 0 and len(counts) == 10
    assert ((counts - 6400).abs() < 5 * 6400**0.5).all()
    assert drawn[40:].equal(
        sample_negatives(3, 5, torch.arange(40, 64), 1000, 10)
    )  # another rank's rows
    for other in ((3, 6), (4, 5)):
        assert (
            0.07
            < (drawn == sample_negatives(*other, torch.arange(64), 1000, 10)).float().mean()
            < 0.13
        )
    assert 0.07 < (drawn[1:] == drawn[:-1]).float().mean() < 0.13
    # splitmix64 in Python's integers
    start = int(np.random.default_rng([3, 5, 1 << 22]).integers(1 << 62))
    for i, j in ((0, 0), (63, 999)):
        x = (start + (i * 1000 + j + 1) * 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        assert int(drawn[i, j]) == ((x ^ (x >> 31)) >> 1) % 10


@pytest.mark.parametrize("options", [(), (("softmax", True), ("space", "ycbcr"))], ids=str)
def test_cmc_is_the_sum_of_both_directions(options: tuple) -> None:
    method = build(Case("cmc", (("temperature", 0.3), *options), sizes=(8,), mixed=False))
    batch = make_batch(Case("cmc", sizes=(8,), mixed=False))
    f_l, f_ab = (
        f.detach().numpy() for f in method.head(method.backbone(batch.views[0])).chunk(2, 1)
    )
    drawn = sample_negatives(0, 0, torch.arange(16), 12, 20)
    picked = torch.cat([batch.index[:, None], drawn], 1).numpy()
    expected = np.zeros(16)
    for f, bank in ((f_l, method.bank_ab.rows.numpy()), (f_ab, method.bank_l.rows.numpy())):
        every = [np.exp(f[i] @ bank[j] / 0.3) for i in range(16) for j in picked[i]]
        nce = loop_nce(f, bank, picked, np.mean(every) * 20)
        expected += loop_softmax(f, bank, picked) if options else nce
    check(method(batch)["clean"], expected.mean())
    before = method.bank_l.rows[batch.index].numpy()
    method.after_step(0.0)
    moved = 0.5 * before + 0.5 * f_l  # the bank of lightness takes lightness
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    check(method.bank_l.rows[batch.index], moved)
    assert not method.bank_ab.rows[batch.index].equal(method.bank_l.rows[batch.index])


@pytest.mark.parametrize("space", SPACES)
def test_colour_spaces_are_scikit_image_s(space: str) -> None:
    rgb = np.random.default_rng(0).random((2, 9, 9, 3))
    rgb[0, 0] = np.linspace(0, 0.2, 9)[:, None]  # the straight parts near black
    rgb[0, 1] = 1
    convert = {"lab": skimage.color.rgb2lab, "ycbcr": skimage.color.rgb2ycbcr}[space]
    facts = SPACES[space]
    expected = ((convert(rgb) - facts.mean) / facts.std).transpose(0, 3, 1, 2)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    view = torch.from_numpy(((rgb - mean) / std).transpose(0, 3, 1, 2))
    first, others = lightness_and_color(view, mean, std, space)
    check(torch.cat([first, others], 1), expected, 2e-6)  # its matrices have six digits as well
    beyond = torch.full((1, 3, 2, 2), 50.0)
    white = lightness_and_color(beyond, mean, std, space)[0]
    check(
        white, np.full((1, 1, 2, 2), (convert(np.ones(3))[0] - facts.mean[0]) / facts.std[0]), 1e-4
    )


def loop_sinkhorn(scores: np.ndarray) -> np.ndarray:
    q = np.exp(scores / 0.05)
    for _ in range(3):
        for k in range(q.shape[1]):
            q[:, k] /= q[:, k].sum()
        for i in range(len(q)):
            q[i] /= q[i].sum()
    return q


def test_swav_as_released_over_iterations() -> None:
    """Spec 1.8: three calls, each pushes, only codes are reversed, the last share weighs all."""
    case = Case("swav", (*RELEASED.items(), ("queue", 48), ("queue_start_epoch", 0)), sizes=CROPS)
    method, flip = build(case), mirrored(16, 4).numpy()
    queues: list[list[np.ndarray]] = [[], []]  # the newest last
    weights = torch.tensor([0.2, 0.7], dtype=torch.float64)
    for step in range(3):
        batch = make_batch(case, step)
        mixed = [replace(m, lam=w.expand(16)) for m, w in zip(batch.mixed, weights, strict=True)]
        batch = replace(batch, mixed=tuple(mixed))
        z = method._embed([*batch.views, *(m.image for m in batch.mixed)])
        z = [rows.detach().numpy() for rows in z]
        prototypes = method.prototypes.weight.detach().numpy()
        log_p = []
        for rows_of in (z[4], z[1], z[5], z[3]):  # mixtures in their views' places
            p = np.exp(rows_of @ prototypes.T / 0.1)
            log_p.append(np.log(p / p.sum(1, keepdims=True)))
        values = []
        for assigned in ((z[0], z[1]), (z[4], z[1]), (z[4][flip], z[1])):
            value = 0.0
            for a in (0, 1):
                earlier = queues[a] if len(queues[a]) == 48 else []
                code = loop_sinkhorn(np.stack([*earlier, *assigned[a]]) @ prototypes.T)[-16:]
                pairs = [-(code * log_p[v]).sum(1).mean() for v in range(4) if v != a]
                value += sum(pairs) / 3 / 2
            for a in (0, 1):
                queues[a] = [*queues[a], *assigned[a]][-48:]
            values.append(value)
        terms = method(batch)
        check(terms["mixed"], 0.7 * values[1] + 0.3 * values[2], 1e-9)
        method.after_step(0.0)
        for a in (0, 1):  # one iteration fills a queue of three batches
            held = method.queue.rows.chunk(2, 1)[a].numpy()
            np.testing.assert_allclose(
                np.sort(held, 0), np.sort(np.stack(queues[a]), 0), atol=1e-12
            )


def test_without_queue_mixtures_both_orders_see_the_same_queue() -> None:
    seen = []

    def code(z: Tensor, view: int, queue: object) -> Tensor:
        seen.append(queue)
        return z.softmax(1)

    z, log_p = [rows(8, 5, 50), rows(8, 5, 51)], [rows(8, 5, s).log_softmax(1) for s in (52, 53)]
    mixed = Mixed(0, torch.zeros(8, 3, 1, 1), mirrored(8, 2), LAM)
    value = in_both_orders(z, log_p, mixed, code, None, None)
    assert seen == [None] * 4
    q, lam = [x.softmax(1).numpy() for x in z], LAM.numpy()
    p = [x.numpy() for x in log_p]
    own = -(q[0] * p[1]).sum(1)
    back = -(q[0][mirrored(8, 2).numpy()] * p[1]).sum(1)
    from_mixture = -(q[1] * p[0]).sum(1)  # weight 1 whatever lam is
    check(value, (lam * own + (1 - lam) * back + from_mixture) / 2)
