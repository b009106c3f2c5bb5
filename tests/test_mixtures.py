"""Mixtures: measured shares, partners inside groups, purity, and the spec's numeric facts."""

import numpy as np
import pytest
import torch

from pipelines.batch import Mixed
from pipelines.mixtures import (
    UN_MIX,
    Mixture,
    Place,
    create_mixture,
    mirrored,
    mix_views,
    mixed_at,
    place,
)


def of_kind(kind: str) -> Mixture:
    mixture = create_mixture(kind, 0.5, 1.0)
    assert mixture is not None
    return mixture


def one_hot_rows(n: int, size: int = 16) -> torch.Tensor:
    """Row i is filled with 2**i, so that any mixture can be read back."""
    return (2.0 ** torch.arange(n)).view(n, 1, 1, 1).expand(n, 3, size, size).clone()


@pytest.mark.parametrize("kind", UN_MIX)
@pytest.mark.parametrize("seed", range(6))
def test_lam_is_the_share_of_own_pixels(kind: str, seed: int) -> None:
    x = one_hot_rows(8)
    mixed = of_kind(kind)(x, np.random.default_rng(seed), group=4)
    own, other = x[:, 0, 0, 0], x[mixed.partner][:, 0, 0, 0]
    expected = mixed.lam * own + (1 - mixed.lam) * other
    torch.testing.assert_close(mixed.image.mean((1, 2, 3)), expected)


@pytest.mark.parametrize("kind", UN_MIX)
def test_the_view_is_left_untouched_and_the_call_is_pure(kind: str) -> None:
    x = torch.rand(6, 3, 9, 13)
    before = x.clone()
    a = of_kind(kind)(x, np.random.default_rng(3))
    b = of_kind(kind)(x, np.random.default_rng(3))
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


@pytest.mark.parametrize("kind", UN_MIX)
@pytest.mark.parametrize("seed", range(4))
def test_a_view_at_another_side_is_mixed_alike(kind: str, seed: int) -> None:
    """From one state of the generator: the same kind of place, the same share but for pixels."""
    places = []
    for side in (96, 64):
        rng = np.random.default_rng(seed)
        mixture = of_kind(kind)
        places.append(mixture.place(side, side, mixture.draw(rng), rng))
    assert type(places[0][0]) is type(places[1][0])
    assert abs(places[0][1] - places[1][1]) < 0.08


def test_a_mask_weighs_each_pixel() -> None:
    """A place may be any weights, here a ramp: 0 is the partner's pixel, 1 the row's own."""
    x = one_hot_rows(4, size=5)
    ramp: Place = np.linspace(0, 1, 25, dtype=np.float32).reshape(5, 5)
    mixed = mixed_at(x, 0, 2, ramp, 0.5)
    weight = torch.from_numpy(ramp)
    for row, partner in enumerate((1, 0, 3, 2)):
        expected = weight * x[row] + (1 - weight) * x[partner]
        torch.testing.assert_close(mixed.image[row], expected)
    assert mixed.lam.tolist() == [0.5] * 4 and torch.equal(x, one_hot_rows(4, size=5))


# Un-Mix specification, 1.2: effective share of a region for lam ~ U(0, 1)
# (48 pixels, which it does not list, from exact_facts)
FACTS = [(32, 0.701, 0.719, 0.145, 0.0040), (48, 0.694, 0.707, 0.159, 0.0017),
         (64, 0.690, 0.703, 0.165, 0.0009), (96, 0.686, 0.702, 0.169, None),
         (224, 0.682, 0.696, 0.175, 0.0001)]  # fmt: skip


def exact_facts(size: int) -> tuple[float, float, float, float]:
    """Mean, median, P(share < 0.5) and P(empty box) by going through all sides and centres."""
    share, weight = [], []
    for half in range(size // 2):  # drawn when size * sqrt(1 - lam) lies in [2 half, 2 half + 2)
        centre = np.arange(size)
        edge = np.minimum(centre + half, size) - np.maximum(centre - half, 0)
        share.append(1 - np.outer(edge, edge).ravel() / size**2)
        weight.append(np.full(size**2, 4 * (2 * half + 1) / size**4))
    s, w = np.concatenate(share), np.concatenate(weight)
    order = np.argsort(s)
    median = s[order][np.searchsorted(w[order].cumsum(), 0.5)]
    return (w * s).sum(), median, w[s < 0.5].sum(), w[s == 1].sum()


@pytest.mark.parametrize(("size", "mean", "median", "below_half", "empty"), FACTS)
def test_effective_share_of_regions(
    size: int, mean: float, median: float, below_half: float, empty: float | None
) -> None:
    rng, n, mixture = np.random.default_rng(0), 30_000, Mixture(0.0)
    shares = np.array([place(size, size, mixture.draw(rng), rng)[1] for _ in range(n)])
    exact = exact_facts(size)
    found = (shares.mean(), np.median(shares), (shares < 0.5).mean(), (shares == 1).mean())
    for one, other, near in zip(found, exact, (0.003, 0.004, 0.005, 0.0009), strict=True):
        assert abs(one - other) < near
    assert abs(exact[0] - mean) < 0.0006 and abs(exact[1] - median) < 0.003
    assert abs(exact[2] - below_half) < 0.0008
    assert empty is None or abs(exact[3] - empty) < 0.0001


def test_shares_chained_over_crops() -> None:
    """Un-Mix specification, 1.8: each box is drawn from the share that the last one left."""
    views = [torch.zeros(2, 1, side, side, dtype=torch.float16) for side in (224, 96, 96, 96)]
    shares = np.array(
        [[float(m.lam[0]) for m in _mixed_crops(views, step, chained=True)] for step in range(2500)]
    )
    assert np.abs(shares.mean(0) - (0.682, 0.782, 0.841, 0.879)).max() < 0.008
    assert abs(np.median(shares[:, 3]) - 0.891) < 0.008
    free = np.array([[float(m.lam[0]) for m in _mixed_crops(views, s)] for s in range(300)])
    assert abs(free[:, 3].mean() - 0.686) < 0.05
    both = [_mixed_crops(views, 7, chained=c) for c in (False, True)]
    assert both[0][0].lam.equal(both[1][0].lam)  # the first crop's box is the same
    mixup = mix_views(
        Mixture(1.0), views, (0, 1), seed=0, step=0, group=2, first_group=None, chained=True
    )
    assert mixup[0].lam.equal(mixup[1].lam)


def _mixed_crops(views: list[torch.Tensor], step: int, chained: bool = False) -> tuple[Mixed, ...]:
    return mix_views(
        Mixture(0.0), views, range(4), seed=0, step=step, group=2, first_group=None, chained=chained
    )


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
