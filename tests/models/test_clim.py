"""CLIM's loss and its methods: loops, gradients, identities (c), (d), (e), (g); a fixed batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from clim_cases import CASES, ROWS, ClimCase, build, make_batch
from method_cases import total

from models.losses.clim import ClimLoss, soft_nce
from models.losses.common import unit
from models.losses.contrastive import info_nce, log_negatives
from models.methods import METHODS
from models.methods.base import Setup
from models.methods.build import build_method
from pipelines.batch import Mixed

N, D, K, T = 6, 5, 7, 0.2
LAM = torch.tensor([0.1, 0.9, 0.5, 1.0, 0.0, 0.3], dtype=torch.float64)
PARTNER = torch.tensor([6, 1, 8, 9, 10, 5])  # rows 1 and 5 are alone


def rows(seed: int, n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return unit(torch.randn(n, D, generator=generator, dtype=torch.float64))


KEYS, QUEUE, CLEAN, SECOND, MIXTURE = rows(0, 2 * N), rows(1, K), rows(2, N), rows(3, N), rows(4, N)
MIXED = Mixed(0, torch.zeros(N, 3, 1, 1, dtype=torch.float64), PARTNER, LAM)


def nce(q: np.ndarray, k: np.ndarray) -> float:
    e = np.exp(q @ QUEUE.numpy().T / T).sum()
    p = np.exp(q @ k / T)
    return float(-np.log(p / (p + e)))


def by_loop(mode: str, weight: float, denominator: str) -> float:
    """Section 3.2 of the spec, row by row."""
    values = []
    for i in range(N):
        q, second, m = (x[i].numpy() for x in (CLEAN, SECOND, MIXTURE))
        ki, kj, lam = KEYS[i].numpy(), KEYS[PARTNER[i]].numpy(), float(LAM[i])
        mixed = lam * nce(m, ki) + (1 - lam) * nce(m, kj)
        if denominator == "shared":
            keys = {int(i): ki, int(PARTNER[i]): kj}
            z = sum(np.exp(m @ k / T) for k in keys.values())
            z += np.exp(m @ QUEUE.numpy().T / T).sum()
            logs = [np.log(np.exp(m @ k / T) / z) for k in (ki, kj)]
            mixed = -lam * logs[0] - (1 - lam) * logs[1]
        if mode == "replace":
            values.append(mixed)
        elif mode == "add":
            values.append((nce(q, ki) + weight * mixed) / (1 + weight))
        else:
            anchor = 0.5 * nce(q, ki) + 0.5 * nce(q, kj)
            neighbor = 0.5 * nce(second, kj) + 0.5 * nce(second, ki)
            values.append((anchor + neighbor + mixed) / 3)
    return float(np.mean(values))


@pytest.mark.parametrize("denominator", ["separate", "shared"])
@pytest.mark.parametrize("weight", [1.0, 0.5])
@pytest.mark.parametrize("mode", ["add", "replace", "csml"])
def test_loss_against_a_loop(mode: Any, weight: float, denominator: Any) -> None:
    loss = ClimLoss(mode, weight, denominator)
    queries = {"add": [CLEAN], "replace": [], "csml": [CLEAN, SECOND]}[mode]
    leaves = [q.clone().requires_grad_() for q in (*queries, MIXTURE)]

    def value(*q: torch.Tensor) -> torch.Tensor:
        return total(loss.contrast(q[:-1], q[-1], KEYS, MIXED, QUEUE, T))

    assert abs(float(value(*queries, MIXTURE)) - by_loop(mode, weight, denominator)) < 1e-12
    assert torch.autograd.gradcheck(value, leaves)


def test_gradient_of_the_mixed_term() -> None:
    """Check (d): -(1/T) [lam (k_i - E_i) + (1 - lam) (k_j - E_j)]."""
    q = MIXTURE.clone().requires_grad_()
    loss = ClimLoss("replace").contrast([], q, KEYS, MIXED, QUEUE, T)
    (total(loss) * N).backward()
    for i in range(N):
        expected = torch.zeros(D, dtype=torch.float64)
        for share, k in ((LAM[i], KEYS[i]), (1 - LAM[i], KEYS[PARTNER[i]])):
            candidates = torch.cat([k[None], QUEUE])
            p = (MIXTURE[i] @ candidates.T / T).softmax(0)
            expected -= share * (k - p @ candidates) / T
        torch.testing.assert_close(q.grad[i], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("denominator", ["separate", "shared"])
def test_an_anchor_alone_is_a_second_view(denominator: Any) -> None:
    """Check (e): at any share the mixed term is InfoNCE with the anchor's key."""
    mixed = replace(MIXED, partner=torch.arange(N))
    term = ClimLoss("replace", 1.0, denominator).contrast([], MIXTURE, KEYS, mixed, QUEUE, T)
    negatives = log_negatives(MIXTURE, QUEUE, T)
    torch.testing.assert_close(
        total(term), info_nce(MIXTURE, KEYS[:N], negatives, T).mean(), rtol=0, atol=1e-12
    )


def test_shared_softmax_has_two_positives() -> None:
    negatives = log_negatives(MIXTURE, QUEUE, T)
    alone = torch.zeros(N, dtype=torch.bool)
    args = (MIXTURE, KEYS[:N], KEYS[N:], torch.ones(N, dtype=torch.float64), alone)
    both = soft_nce(*args, negatives, T)
    one = info_nce(
        MIXTURE, KEYS[:N], torch.logaddexp(negatives, (MIXTURE * KEYS[N:]).sum(1) / T), T
    )
    torch.testing.assert_close(both, one)


def test_a_share_of_one_is_moco() -> None:
    """Check (c): loss and gradient of the mixture of nothing are MoCo's on the anchors alone."""
    case = ClimCase("moco", mode="replace", alone=())
    batch = make_batch(case, 0)
    (mixed,) = batch.mixed
    batch = replace(
        batch, mixed=(replace(mixed, image=batch.views[0][:ROWS], lam=torch.ones_like(mixed.lam)),)
    )
    plain = replace(batch, views=tuple(view[:ROWS] for view in batch.views), mixed=())
    gradients = []
    for method, b in ((build(case), batch), (build(replace(case, mode=None)), plain)):
        loss = total(method(b))
        loss.backward()
        gradients.append([p.grad for p in method.parameters() if p.grad is not None])
        gradients[-1].append(loss.detach())
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_only_keys_of_anchors_are_enqueued() -> None:
    """Check (g)."""
    case = ClimCase("moco")
    method, batch = build(case), make_batch(case, 0)
    expected = method.keys.encode(method.key_encoder, method._key_views(batch), batch)[0]
    before = method.queue.rows.clone()
    method(batch)
    method.queue.commit(method.keys_per_step)
    torch.testing.assert_close(method.queue.rows[:ROWS], expected)
    assert torch.equal(method.queue.rows[ROWS:], before[ROWS:])
    assert int(method.queue.pointer) == ROWS


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_fixed_batch_is_learnt_and_labels_are_not_read(case: ClimCase) -> None:
    method, batch = build(case), make_batch(case, 0)
    other = replace(batch, label=batch.label.roll(1))
    assert {k: v.item() for k, v in method(batch).items()} == {
        k: v.item() for k, v in build(case)(other).items()
    }
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(30):
        loss = total(method(batch))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_methods_without_a_row_form_say_why() -> None:
    from method_cases import TinyNet

    refused = []
    for name, entry in METHODS.items():
        config = entry.settings
        if not config.supports_clim:
            with pytest.raises(ValueError, match=f"--mix clim cannot go with --method {name}"):
                build_method(
                    name,
                    config(),
                    TinyNet(),
                    Setup(
                        bn="sync",
                        group_size=4,
                        batch_size=16,
                        seed=0,
                        steps_per_epoch=4,
                        num_views=config.min_views,
                        clim=ClimLoss(),
                    ),
                )
            refused.append(name)
    assert {"simclr", "swav"} <= set(refused) and not {"moco", "byol"} & set(refused)
    for case, message in (
        (ClimCase("moco", options=(("symmetric", True),)), "--moco.symmetric"),
        (ClimCase("byol", options=()), "--byol.mix-online"),
        (ClimCase("byol", mode="csml"), "--clim.mode csml"),
    ):
        with pytest.raises(ValueError, match=message):
            build(case)
