"""i-Mix's losses against NumPy loops in float64, and its identities."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from embedding_cases import LAM, Identity, N, batch_of, cos, rows
from method_cases import I_MIX, Case, build, make_batch, total
from torch import nn

from models.losses.contrastive import softmax_among
from models.methods import METHODS
from models.methods.base import Setup
from models.methods.build import build_method
from pipelines.batch import Batch

CYCLE = torch.tensor([2, 1, 0, 4, 5, 3])
"""Row 1 is its own partner; the last three are a cycle, and no partner of each other's."""
ROWS = LAM * torch.linspace(0.6, 1, N, dtype=torch.float64)


def i_mix_method(name: str, **options: Any) -> Any:
    """The method with nothing between images and embeddings, and mixed terms that stand alone."""
    config = METHODS[name].settings(dim=5, **options)
    setup = Setup("sync", 3, N, seed=0, steps_per_epoch=4, mix_terms="replace")
    method = build_method(name, config, Identity(), setup).double()
    method.head = nn.Identity()
    if name == "moco":
        method.key_encoder = Identity()
        method.queue.rows.copy_(torch.nn.functional.normalize(method.queue.rows, dim=1))
    if name == "byol":
        method.target, method.predictor = Identity(), nn.Identity()
    return method


def i_mix_batch(*images: torch.Tensor) -> Batch:
    batch = batch_of(*images, lam=ROWS)
    return replace(batch, mixed=(replace(batch.mixed[0], partner=CYCLE, name="imix"),))


def loop(gap: Any) -> float:
    """mean_i lam_i gap(i, i) + (1 - lam_i) gap(i, p(i))."""
    pairs = zip(ROWS.tolist(), CYCLE.tolist(), strict=True)
    return float(np.mean([a * gap(i, i) + (1 - a) * gap(i, p) for i, (a, p) in enumerate(pairs)]))


@pytest.mark.parametrize("name", ["moco", "simclr", "byol"])
def test_the_term_is_the_formula_s(name: str) -> None:
    x0, x1, xm = (rows(N, 5, seed) for seed in range(3))
    options = {
        "moco": {"queue": 7, "batch_keys": True, "temperature": 0.3},
        "simclr": {"n_pair": True, "temperature": 0.3},
        "byol": {"hidden": 5},
    }
    method = i_mix_method(name, **options[name])
    terms = method(i_mix_batch(x0, x1, xm))
    q, k = xm.numpy(), [*x1.numpy()]
    others = [*method.queue.rows.numpy()] if name == "moco" else []

    def gap(i: int, j: int) -> float:
        if name == "byol":
            return 2 - 2 * cos(q[i], k[j])
        e = [np.exp(cos(q[i], c) / 0.3) for c in [*k, *others]]
        return -np.log(e[j] / sum(e))

    assert list(terms) == ["mixed_0_imix"]
    torch.testing.assert_close(float(terms["mixed_0_imix"]), loop(gap), rtol=0, atol=1e-10)


def test_two_cross_entropies_are_a_logsumexp_in_which_a_key_counts_once() -> None:
    q, k = (torch.nn.functional.normalize(rows(N, 5, seed), dim=1) for seed in (3, 4))
    scores = q @ k.T / 0.2
    own, other = scores.diagonal(), scores[torch.arange(N), CYCLE]
    expected = scores.logsumexp(1) - ROWS * own - (1 - ROWS) * other
    loss = softmax_among(q, k, 0.2)
    torch.testing.assert_close(ROWS * loss(q, k) + (1 - ROWS) * loss(q, k[CYCLE]), expected)


@pytest.mark.parametrize(
    "case",
    [
        Case("moco", (("batch_keys", True),), names=I_MIX),
        Case("simclr", (("n_pair", True),), names=I_MIX),
        *(Case(name, names=I_MIX) for name in ("simclr", "simsiam", "vicreg")),
    ],
    ids=str,
)
def test_lam_one_is_the_clean_loss(case: Case) -> None:
    """With the batch's keys among the candidates: a mixture with share 1 is the view itself."""
    batch = make_batch(case, lam=torch.ones(case.rows))
    alone, clean = build(case)(batch), build(case)(replace(batch, mixed=()))
    assert list(alone) == ["mixed_0_imix"] and list(clean) == ["clean"]
    torch.testing.assert_close(alone["mixed_0_imix"], clean["clean"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["moco", "simclr", "byol", "simsiam", "vicreg"])
def test_both_partners_weigh_and_everything_that_is_trained_learns(name: str) -> None:
    case = Case(name, names=I_MIX)
    batch, method = make_batch(case), build(case)
    total(method(batch)).backward()
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)
    (m,) = batch.mixed
    other = replace(batch, mixed=(replace(m, lam=1 - m.lam),))
    swapped = total(build(case)(other)) - total(build(case)(batch))
    assert float(swapped.detach().abs()) > 1e-6
