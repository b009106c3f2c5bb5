"""Mixed Barlow Twins: the pixels of two views, and the regularizer of their blend."""

import dataclasses

import numpy as np
import pytest
import torch
from method_cases import Case, build, make_batch
from mix_cases import mix_views
from torch import Tensor

from models.methods.barlow import regularizer, standardize
from pipelines.mixtures.cross_view import STREAM, CrossView, CrossViewPlan
from tools.config import resolve
from tools.config.cli import parse
from tools.runs.scores import settings_of

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


@pytest.mark.parametrize("sides", [(4,), (4, 2), (4, 4, 4)])
def test_two_views_of_one_size_are_needed(sides: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"one size, not the sides 4.*--crop-sizes"):
        mix_views(CrossView(), [torch.rand(4, 3, side, side) for side in sides])


def test_the_share_has_a_stream_of_its_own_and_is_not_folded() -> None:
    pair = [torch.rand(2, 3, 1, 1) for _ in range(2)]
    shares = [float(mix_views(CrossView(), pair, step=step)[0].lam[0]) for step in range(400)]
    expected = np.random.default_rng([0, 7, STREAM]).beta(1, 1)
    assert shares[7] == pytest.approx(expected)
    assert np.quantile(shares, (0.1, 0.5, 0.9)) == pytest.approx((0.1, 0.5, 0.9), abs=0.06)


def test_gradients_are_those_of_the_formula() -> None:
    """In all three embeddings, against central differences of the loop over the matrices."""
    z0, z1 = rows()
    inputs = [(z0.sin() + z1), z0, z1]

    def loop(z: Tensor, z0: Tensor, z1: Tensor) -> float:
        error = z - 0.3 * z0 - 0.7 * z1[PARTNER]
        return sum(float(((error.T @ view / 8) ** 2).sum()) for view in (z0, z1))

    leaves = [x.clone().requires_grad_() for x in inputs]
    regularizer(*leaves, PARTNER, share(0.3)).backward()
    for i, leaf in enumerate(leaves):
        for place in ((0, 0), (5, 2)):
            sides = []
            for step in (1e-5, -1e-5):
                moved = [x.clone() for x in inputs]
                moved[i][place] += step
                sides.append(loop(*moved))
            assert leaf.grad is not None
            assert float(leaf.grad[place]) == pytest.approx((sides[0] - sides[1]) / 2e-5, abs=1e-7)


@pytest.mark.parametrize("mix", ["none", "global"])
def test_the_weight_needs_the_mixture(mix: str) -> None:
    words = ["--method", "barlow", "--mix", mix, "--barlow.mix-weight", "2"]
    with pytest.raises(ValueError, match=r"--barlow\.mix-weight 2 .* --mix mixed-barlow"):
        resolve.check_mixture(parse(words))


def test_results_that_differ_in_beta_are_not_seeds_of_one_run() -> None:
    words = ["--method", "barlow", "--mix", "mixed-barlow"]
    one, two = (settings_of(parse([*words, *more])) for more in ([], ["--mix-beta", "2"]))
    assert one != two and "mix_prob" not in one
