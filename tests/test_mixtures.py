"""Mixtures: measured shares, partners inside groups, purity, and the spec's numeric facts."""

import numpy as np
import pytest
import torch

from pipelines.batch import Mixed
from pipelines.mixtures import Mixture, create_mixture, mirrored, mix_views, region

KINDS = {"global": 1.0, "region": 0.0, "unmix": 0.5}


def one_hot_rows(n: int, size: int = 16) -> torch.Tensor:
    """Row i is filled with 2**i, so that any mixture can be read back."""
    return (2.0 ** torch.arange(n)).view(n, 1, 1, 1).expand(n, 3, size, size).clone()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_lam_is_the_share_of_own_pixels(kind: str, seed: int) -> None:
    x = one_hot_rows(8)
    mixed = Mixture(KINDS[kind])(x, np.random.default_rng(seed), group=4)
    own, other = x[:, 0, 0, 0], x[mixed.partner][:, 0, 0, 0]
    expected = mixed.lam * own + (1 - mixed.lam) * other
    torch.testing.assert_close(mixed.image.mean((1, 2, 3)), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_view_is_left_untouched_and_the_call_is_pure(kind: str) -> None:
    x = torch.rand(6, 3, 9, 13)
    before = x.clone()
    a = Mixture(KINDS[kind])(x, np.random.default_rng(3))
    b = Mixture(KINDS[kind])(x, np.random.default_rng(3))
    assert torch.equal(x, before)
    assert torch.equal(a.image, b.image) and torch.equal(a.lam, b.lam)


def test_partners_mirror_inside_groups_and_back() -> None:
    partner = mirrored(12, 4, torch.device("cpu"))
    assert partner.tolist() == [3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8]
    assert torch.equal(partner[partner], torch.arange(12))


@pytest.mark.parametrize(("rows", "group"), [(9, 3), (10, 4), (3, 3)])
def test_odd_or_broken_groups_are_refused(rows: int, group: int) -> None:
    with pytest.raises(ValueError, match="even groups"):
        mirrored(rows, group, torch.device("cpu"))


def test_a_region_with_nothing_to_paste_is_the_view_itself() -> None:
    x = torch.rand(4, 3, 8, 8)
    mixed = Mixture(0.0)(x, np.random.default_rng(0), share=(False, 1.0))
    assert torch.equal(mixed.image, x) and (mixed.lam == 1).all()


# Un-Mix specification, 1.2: effective share of a region for lam ~ U(0, 1)
FACTS = [(32, 0.701, 0.719, 0.145, 0.0040), (64, 0.690, 0.703, 0.165, 0.0009),
         (96, 0.686, 0.702, 0.169, None), (224, 0.682, 0.696, 0.175, 0.0001)]  # fmt: skip


@pytest.mark.parametrize(("size", "mean", "median", "below_half", "empty"), FACTS)
def test_effective_share_of_regions(
    size: int, mean: float, median: float, below_half: float, empty: float | None
) -> None:
    rng, n = np.random.default_rng(0), 60_000
    shares = np.empty(n)
    for i in range(n):
        top, bottom, left, right = region(size, size, rng.beta(1, 1), rng)
        shares[i] = 1 - (bottom - top) * (right - left) / size**2
    assert abs(shares.mean() - mean) < 0.003
    assert abs(np.median(shares) - median) < 0.006
    assert abs((shares < 0.5).mean() - below_half) < 0.005
    if empty is not None:
        assert abs((shares == 1).mean() - empty) < 0.0009


def test_views_of_a_step_agree_on_kind_and_share_but_not_on_the_box() -> None:
    views = [torch.rand(8, 3, 64, 64) for _ in range(4)]
    boxes_differ = False
    for step in range(20):
        a, b = mix_views(Mixture(0.5), views, (0, 2), seed=1, step=step, group=4, first_group=None)
        assert (a.view, b.view) == (0, 2)
        is_global = (a.image != views[0]).float().mean() > 0.99
        if is_global:
            assert torch.equal(a.lam, b.lam)
        else:
            boxes_differ |= not torch.equal(a.lam, b.lam)
    assert boxes_differ


@pytest.mark.parametrize("per_group", [False, True])
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_mix_as_one_process_does(per_group: bool, world_size: int) -> None:
    x, share = torch.rand(16, 3, 12, 12), 16 // world_size

    def mixed(rows: torch.Tensor, first: int) -> Mixed:
        return mix_views(
            Mixture(0.5), [rows], (0,), seed=5, step=9, group=4,
            first_group=first if per_group else None,
        )[0]  # fmt: skip

    whole = mixed(x, 0)
    for rank in range(world_size):
        mine = slice(rank * share, (rank + 1) * share)
        part = mixed(x[mine], rank * share // 4)
        assert torch.equal(part.image, whole.image[mine])
        assert torch.equal(part.lam, whole.lam[mine])
        assert torch.equal(part.partner + rank * share, whole.partner[mine])
    assert len(whole.lam.unique()) > 1 if per_group else len(whole.lam.unique()) == 1


def test_names_and_bad_numbers() -> None:
    assert create_mixture("none", 0.5, 1.0) is None
    assert create_mixture("region", 0.5, 1.0) == Mixture(0.0, 1.0)
    assert create_mixture("unmix", 0.3, 2.0) == Mixture(0.3, 2.0)
    with pytest.raises(ValueError, match="--mix-prob"):
        Mixture(1.5)
    with pytest.raises(ValueError, match="--mix-beta"):
        Mixture(0.5, 0.0)
