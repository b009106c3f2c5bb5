"""MixMask and sums of mixtures: the page's invariants, and the numbers of its table."""

import numpy as np
import pytest
import torch
from mix_cases import mix_views

from pipelines.batch import Mixed
from pipelines.mixtures.mixmask import CELLS, MixMask, blocks, enlarge
from pipelines.mixtures.registry import MixSettings, create_mixture
from pipelines.mixtures.unmix import Placed, mix_rows
from pipelines.settings import ImConfig, MaskKind, MixMaskConfig, parts_of


def mask_of(kind: MaskKind = "block", grid: int = 8, share: float = 0.5) -> MixMask:
    return MixMask(config=MixMaskConfig(kind, grid, share))


def images(n: int = 8, side: int = 32) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("side", [32, 33, 96])
def test_each_pixel_is_the_row_s_or_its_partner_s_and_lam_counts_them(
    kind: MaskKind, side: int
) -> None:
    x = images(side=side)
    (m,) = mix_views(mask_of(kind), [x], group=4)
    own, other = m.image == x, m.image == x[m.partner]
    assert (own | other).all() and own.any() and other.any()
    assert torch.equal(own.all(1)[0], own.all(1)[7])  # one mask for all rows
    torch.testing.assert_close(m.lam, own[:, 0].float().mean((1, 2)))
    assert m.term == "mixed_0_mask"


def test_a_pixel_belongs_to_the_cell_below_it() -> None:
    cells = np.random.default_rng(0).random((7, 7)) < 0.5
    mask = enlarge(cells, 32, 20)
    for y in range(32):
        for x in range(20):
            assert mask[y, x] == cells[y * 7 // 32, x * 7 // 20]


def test_a_mask_that_is_a_box_is_un_mix_s_region_bit_for_bit() -> None:
    x, box = images(), (3, 20, 7, 31)
    mask = np.ones((32, 32), np.float32)
    mask[box[0] : box[1], box[2] : box[3]] = 0
    pasted, masked = mix_rows(x, 8, Placed.of(box, 0.4)), mix_rows(x, 8, Placed.of(mask, 0.4))
    assert all(torch.equal(a, b) for a, b in zip(pasted, masked, strict=True))


@pytest.mark.parametrize(("value", "expected"), [(1, slice(None)), (0, [1, 0, 3, 2])])
def test_a_mask_of_one_value_is_the_row_or_its_partner(value: int, expected: object) -> None:
    x = images(4)
    image, _, _ = mix_rows(x, 2, Placed.of(np.full((32, 32), value, np.float32), float(value)))
    assert torch.equal(image, x[expected])


def test_the_complement_mixes_the_partners() -> None:
    """With mirrored partners, 1 - M gives the same two terms in the other order."""
    x = images()
    mask = enlarge(blocks(8, 0.5, np.random.default_rng(1)), 32, 32)
    image, partner, _ = mix_rows(x, 8, Placed.of(mask, 0.5))
    complement, _, _ = mix_rows(x, 8, Placed.of(1 - mask, 0.5))
    assert torch.equal(complement, image[partner])


@pytest.mark.parametrize(
    ("grid", "mean", "exact"), [(4, 0.499, 0.989), (7, 0.489, 0.966), (8, 0.499, 0.958)]
)
def test_blocks_cover_the_published_share(grid: int, mean: float, exact: float) -> None:
    """Means over 4,000 masks: mean lam, and how many have exactly the cells that were wanted."""
    rng = np.random.default_rng(0)
    masks = np.array([blocks(grid, 0.5, rng) for _ in range(4000)])
    counts = masks.sum((1, 2))
    assert masks.mean() == pytest.approx(mean, abs=0.004)
    assert (counts == grid * grid // 2).mean() == pytest.approx(exact, abs=0.01)
    assert counts.max() <= grid * grid // 2


@pytest.mark.parametrize(("grid", "deviation"), [(2, 0.189), (4, 0.125), (8, 0.062)])
def test_discrete_cells_vary_as_published(grid: int, deviation: float) -> None:
    rng = np.random.default_rng(0)
    shares = np.array([CELLS["discrete"](grid, 0.5, rng).mean() for _ in range(4000)])
    assert shares.std() == pytest.approx(deviation, rel=0.04)
    assert shares.min() > 0 and shares.max() < 1


def test_blocks_are_refused_on_a_coarse_grid() -> None:
    with pytest.raises(ValueError, match=r"--mixmask\.grid 3 .* --mixmask\.kind discrete"):
        mask_of(grid=3)
    assert mask_of("discrete", grid=2)


def same(a: Mixed, b: Mixed) -> bool:
    pairs = zip((a.image, a.partner, a.lam), (b.image, b.partner, b.lam), strict=True)
    return a.term == b.term and all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("per_group", [False, True])
def test_each_mixture_of_a_sum_draws_what_it_draws_alone(per_group: bool) -> None:
    settings = MixSettings(per_group=per_group)
    for step in range(4):
        alone = [
            mix_views(create_mixture(name, settings), [images()], group=4, step=step)
            for name in ("unmix", "mixmask")
        ]
        both = mix_views(create_mixture("unmix+mixmask", settings), [images()], group=4, step=step)
        assert [m.term for m in both] == ["mixed_0", "mixed_0_mask"]
        assert same(both[0], alone[0][0]) and same(both[1], alone[1][0])


def test_a_label_free_mixture_comes_first_in_a_sum() -> None:
    """The mixture of two targets is made from the changed views, in either order of the names."""
    settings = MixSettings(im=ImConfig(mask_prob=1.0, mask_size=8))
    made = [
        mix_views(create_mixture(name, settings), [images().clone()], seed=5)
        for name in ("region+cutout", "cutout+region")
    ]
    assert same(made[0][0], made[1][0])
    plain = mix_views(create_mixture("region", settings), [images()], seed=5)
    assert not torch.equal(made[0][0].image, plain[0].image)


@pytest.mark.parametrize(
    ("mix", "why"),
    [
        ("unmix+region", "one of Un-Mix's forms"),
        ("im+cutout", "one of the label-free mixtures"),
        ("clim+unmix", "clim cannot be added"),
        ("none+unmix", "none cannot be added"),
        ("mixmask+mixmask", "twice"),
        ("unmix+mixmusk", "did you mean mixmask"),
        ("", "choose from"),
    ],
)
def test_sums_that_mean_nothing_are_refused(mix: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parts_of(mix)
