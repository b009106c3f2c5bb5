"""Mixed Barlow Twins: the pixels of two views, and the regularizer of their blend."""

import dataclasses

import numpy as np
import pytest
import torch
from method_cases import Case, build, make_batch
from torch import Tensor

from models.methods.barlow import regularizer, standardize
from pipelines.mixtures.cross_view import CrossViewPlan
from tools.config import resolve
from tools.config.cli import parse

PARTNER = torch.arange(8).flip(0)


def rows() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(8, 3, dtype=torch.float64), torch.randn(8, 3, dtype=torch.float64)


def share(lam: float) -> Tensor:
    return torch.tensor(lam, dtype=torch.float64)


def test_the_regularizer_is_the_formula() -> None:
    z0, z1 = rows()
    z, lam = z0.sin() + z1, 0.3
    expected = 0.0
    for view in (z0, z1):
        for i in range(3):
            for j in range(3):
                mixed = (z[:, i] * view[:, j]).mean()
                own = (z0[:, i] * view[:, j]).mean()
                other = (z1[PARTNER][:, i] * view[:, j]).mean()
                expected += float(mixed - lam * own - (1 - lam) * other) ** 2
    found = regularizer(z, z0, z1, PARTNER, share(lam)).item()
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_it_vanishes_at_both_ends_and_for_linear_encoders() -> None:
    z0, z1 = rows()
    ends = ((1.0, standardize(z0)), (0.0, standardize(z1)[PARTNER]))
    for lam, z in ends:
        assert regularizer(z, standardize(z0), standardize(z1), PARTNER, share(lam)) == 0
    for lam in (0.0, 0.25, 0.8, 1.0):
        blend = lam * z0 + (1 - lam) * z1[PARTNER]
        assert regularizer(blend, z0, z1, PARTNER, share(lam)).item() < 1e-28


def test_the_order_of_rows_changes_nothing_and_targets_have_gradients() -> None:
    z0, z1 = (x.requires_grad_() for x in rows())
    z, lam, order = z0.detach().tanh(), share(0.4), torch.randperm(8)
    plain = regularizer(z, z0, z1, PARTNER, lam)
    place = order.argsort()
    permuted = regularizer(z[order], z0[order], z1[order], place[PARTNER[order]], lam)
    torch.testing.assert_close(plain, permuted)
    plain.backward()
    assert z0.grad is not None and z0.grad.any() and z1.grad is not None and z1.grad.any()


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_the_mixture_blends_rows_of_two_views(lam: float) -> None:
    views = tuple(torch.randn(8, 3, 4, 4) for _ in range(2))
    same, (mixed,) = CrossViewPlan(4, lam).apply(views)
    partner = torch.tensor([3, 2, 1, 0, 7, 6, 5, 4])
    assert same is views and mixed.partner.equal(partner) and mixed.partner_view == 1
    expected = lam * views[0] + (1 - lam) * views[1][partner]
    torch.testing.assert_close(mixed.image, expected)
    if lam in (0, 1):
        assert mixed.image.equal(expected)


def test_weight_0_is_plain_barlow_and_the_weight_scales_the_term() -> None:
    terms, states = {}, {}
    for weight in (None, 0.0, 1.0, 2.0):
        case = Case("barlow", (("mix_weight", weight or 0.0),), mixed=False)
        method, batch = build(case), make_batch(case)
        _, mixed = CrossViewPlan(4, 0.3).apply(batch.views)
        batch = batch if weight is None else dataclasses.replace(batch, mixed=mixed)
        terms[weight] = method(batch)
        states[weight] = method.state_dict()
    assert terms[0.0].keys() == {"clean"} and terms[0.0]["clean"].equal(terms[None]["clean"])
    assert all(value.equal(states[None][key]) for key, value in states[0.0].items())
    torch.testing.assert_close(terms[2.0]["mixed_0_cross"], 2 * terms[1.0]["mixed_0_cross"])
    assert terms[1.0]["mixed_0_cross"] > 0


@pytest.mark.parametrize("method", ["moco", "vicreg", "dino"])
def test_other_methods_refuse_it_by_name(method: str) -> None:
    with pytest.raises(ValueError, match=f"mixed-barlow .*--method {method} takes --mix unmix"):
        resolve.check_mixture(parse(["--method", method, "--mix", "mixed-barlow"]))
    resolve.check_mixture(parse(["--method", "barlow", "--mix", "mixed-barlow"]))
