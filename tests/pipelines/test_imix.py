"""i-Mix's pixels: partners, shares, boxes, and what they may depend on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from mix_cases import mix_views

from pipelines.batch import Mixed
from pipelines.mixtures.imix import IMix
from pipelines.rng import RowRng

FORMS = [IMix(), IMix(cutmix=True), IMix(cutmix=True, per_group=True)]


def images(n: int = 12, side: int = 16) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def rows_of(mixed: Mixed, rows: slice) -> tuple[torch.Tensor, ...]:
    return mixed.image[rows], mixed.partner[rows] - rows.start, mixed.lam[rows]


@pytest.mark.parametrize("mixture", FORMS, ids=str)
def test_partners_are_a_permutation_of_each_group_and_shares_are_folded(mixture: IMix) -> None:
    x, seen = images(), set()
    for step in range(20):
        (m,) = mix_views(mixture, [x], group=4, step=step)
        groups = m.partner.view(3, 4) - 4 * torch.arange(3)[:, None]
        assert groups.sort(1).values.equal(torch.arange(4).expand(3, 4))
        assert (m.lam >= 0.5).all() and (m.lam <= 1).all()
        assert m.term == "mixed_0_imix"
        own = m.partner == torch.arange(12)
        torch.testing.assert_close(m.image[own], x[own])  # a fixed point is the view itself
        seen.add(tuple(m.partner.tolist()))
    assert len(seen) > 15


def test_whole_images_are_blended_by_a_share_of_each_row() -> None:
    x = images()
    (m,) = mix_views(IMix(), [x], group=4)
    share = m.lam[:, None, None, None]
    torch.testing.assert_close(m.image, share * x + (1 - share) * x[m.partner])
    drawn = RowRng(0, 0).uniform(np.arange(12), (1 << 24), 1)[:, 0]
    torch.testing.assert_close(
        m.lam.double(), torch.tensor(np.maximum(drawn, 1 - drawn)).float().double()
    )
    (again,) = mix_views(IMix(), [x], group=4, step=1)
    assert again.lam.equal(m.lam)  # keyed by row and epoch; partners by the step
    (raw,) = mix_views(IMix(fold=False), [x], group=4)
    assert raw.partner.equal(m.partner) and raw.lam.min() < 0.5
    assert torch.maximum(raw.lam, 1 - raw.lam).equal(m.lam)


@pytest.mark.parametrize(("beta", "mean"), [(1.0, 0.75), (2.0, 0.6875)])
def test_mean_shares(beta: float, mean: float) -> None:
    """E max(lam, 1 - lam): 3/4 for Beta(1, 1), 11/16 for Beta(2, 2)."""
    (m,) = mix_views(IMix(beta=beta), [torch.zeros(4000, 1, 1, 1)])
    assert float(m.lam.mean()) == pytest.approx(mean, abs=0.01)


def test_a_box_counts_the_row_s_own_pixels_and_is_one_for_all_rows() -> None:
    x = images(8, 32)
    for step in range(8):
        (m,) = mix_views(IMix(cutmix=True), [x], group=4, step=step)
        others = m.partner != torch.arange(8)
        own = (m.image == x).all(1)[others]
        assert ((m.image == x) | (m.image == x[m.partner])).all()
        assert (own == own[:1]).all()
        torch.testing.assert_close(m.lam[others], own.float().mean((1, 2)))
        (groups,) = mix_views(IMix(cutmix=True, per_group=True), [x], group=4, step=step)
        assert groups.lam[:4].unique().numel() == groups.lam[4:].unique().numel() == 1


@pytest.mark.parametrize(("side", "mean"), [(32, 0.834), (224, 0.818)])
def test_mean_share_of_folded_boxes(side: int, mean: float) -> None:
    """The page's numbers; 400 steps of one row."""
    x = torch.zeros(1, 1, side, side)
    shares = [float(mix_views(IMix(cutmix=True), [x], step=step)[0].lam[0]) for step in range(400)]
    assert np.mean(shares) == pytest.approx(mean, abs=0.02)
    assert min(shares) >= 0.5


@pytest.mark.parametrize("mixture", FORMS, ids=str)
def test_a_process_mixes_its_groups_as_one_process_does(mixture: IMix) -> None:
    x = images(16)
    (whole,) = mix_views(mixture, [x], group=4, step=3)
    for first in (0, 8):
        part = slice(first, first + 8)
        (own,) = mix_views(
            mixture, [x[part]], rows=range(first, first + 8), group=4, step=3, first=first
        )
        assert all(map(torch.equal, rows_of(whole, part), rows_of(own, slice(0, 8))))


@pytest.mark.parametrize("mixture", FORMS, ids=str)
def test_views_differ_and_a_copy_at_another_side_does_not(mixture: IMix) -> None:
    x = images(8)
    first, second, copy = mix_views(
        mixture, [x, x, x[:, :, ::2, ::2]], (0, 1, 2), group=8, copies={2: 0}
    )
    assert not first.partner.equal(second.partner) and not first.lam.equal(second.lam)
    assert copy.partner.equal(first.partner)
    assert (copy.lam - first.lam).abs().max() < 0.15  # boxes are rounded to pixels


def test_parts_that_are_no_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="12 rows do not make whole groups of 5"):
        mix_views(IMix(), [images()], group=5)
    with pytest.raises(ValueError, match="--mix-beta"):
        replace(IMix(), beta=0.0)
