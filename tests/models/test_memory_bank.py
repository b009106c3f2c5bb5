"""Law 6 for memory banks and CMC: NumPy float64 loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from method_cases import Case, build, make_batch
from oracles import check, check_gradient, rows
from torch import Tensor

from models.losses.contrastive import nce_loss, softmax_loss
from models.modules.memory_bank import (
    BankConfig,
    MemoryBank,
    candidate_scores,
    sample_negatives,
)
from pipelines.batch import Batch


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
    config = BankConfig(dim=4, negatives=6, temperature=0.3, momentum=0.25, softmax=softmax)
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
def test_cmc_is_the_sum_of_both_directions(options: tuple[Any, ...]) -> None:
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
