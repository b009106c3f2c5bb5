"""The pixels of SDMP and PatchMix, and what they refuse."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mix_cases import mix_views

from pipelines.data_facts import DATASETS, IMAGENET
from pipelines.mixtures.patchmix import PatchMix, half_of_the_patches
from pipelines.mixtures.sdmp import Sdmp, shrink_into
from tools.config import cli
from tools.config.among_mixtures import patch_of
from tools.config.resolve import check, resolve


def images(n: int = 8, side: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_the_partner_s_whole_view_is_resized_into_the_box() -> None:
    x, other = images(4, 24), images(4, 24, seed=1)
    box = torch.tensor([[3, 5, 10], [0, 0, 24], [12, 14, 2], [7, 0, 16]])
    made = shrink_into(x, other, box)
    for i, (top, left, side) in enumerate(box.tolist()):
        expected = x[i].clone()
        resized = F.interpolate(other[i : i + 1], side, mode="bilinear", align_corners=False)[0]
        expected[:, top : top + side, left : left + side] = resized
        torch.testing.assert_close(made[i], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(made[1], other[1])  # a box over the whole view


@pytest.mark.parametrize("side", [32, 224])
def test_sdmp_s_shares_are_counted_and_both_views_have_the_same(side: int) -> None:
    x, y = torch.zeros(64, 1, side, side), torch.ones(64, 1, side, side)
    marked = x + torch.arange(64)[:, None, None, None]
    query, key = mix_views(Sdmp(), [marked, marked + y], group=16)
    assert (query.key, key.key) == (False, True) and {query.view, key.view} == {0, 1}
    assert torch.equal(query.lam, key.lam) and not torch.equal(query.image + 1, key.image)
    own = (query.image.round() == (marked + query.view)).float().mean((1, 2, 3))
    torch.testing.assert_close(own, query.lam, rtol=0, atol=1e-6)
    nominal = 0.1 + 0.8 * np.linspace(0, 1, 20001)
    mean = np.mean(1 - (2 * ((side * np.sqrt(1 - nominal)).astype(int) // 2) / side) ** 2)
    assert abs(float(query.lam.mean()) - mean) < 0.1
    assert float(query.lam.min()) >= 0.1 and float(query.lam.max()) < 0.95
    assert torch.equal(query.partner, torch.arange(64).view(4, 16).flip(1).flatten())


def test_a_coin_decides_which_view_is_the_query() -> None:
    x = [images(2, 8), images(2, 8, seed=1)]
    queries = [mix_views(Sdmp(), x, step=step)[0].view for step in range(40)]
    assert 8 < sum(queries) < 32


def test_draws_belong_to_the_row() -> None:
    """Law 1: another batch and another place, the same share, box and pixels."""
    x = images(6)
    one = mix_views(Sdmp(), [x, x], rows=[5, 9, 2, 7, 1, 0], group=2)
    two = mix_views(Sdmp(), [x[2:4], x[2:4]], rows=[2, 7], group=2, first=2)
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.image[2:4], b.image) and torch.equal(a.lam[2:4], b.lam)


def test_half_of_the_patches_are_the_next_row_s() -> None:
    x = images(6)
    query, key = mix_views(PatchMix(4), [x, x], group=3)
    assert (query.view, key.view, query.key, key.key) == (1, 0, False, True)
    assert query.partner.tolist() == [1, 2, 0, 4, 5, 3]
    own = query.image == x
    assert (own | (query.image == x[query.partner])).all()
    cells = own[:, 0].float().view(6, 8, 4, 8, 4).mean((2, 4))
    assert set(cells.unique().tolist()) == {0.0, 1.0} and (cells == cells[0]).all()
    assert cells[0].mean() == 0.5 == float(query.lam[0])
    assert not torch.equal(query.image, key.image)  # patches of its own


def test_an_odd_number_of_patches_leaves_one_more_to_the_row() -> None:
    own = half_of_the_patches(12, 4, np.random.default_rng(0))
    assert own.mean() == pytest.approx(5 / 9)


def test_patches_put_back_are_the_images() -> None:
    """What row i - 1 took from row i fills the holes of row i."""
    x = images(5)
    (query, _) = mix_views(PatchMix(8), [x, x])
    own = (query.image == x).all(1, keepdim=True)
    assert torch.equal(torch.where(own, query.image, query.image.roll(1, 0)), x)


@pytest.mark.parametrize(("mixture", "group"), [(PatchMix(), 2), (PatchMix(5), 4), (Sdmp(), 3)])
def test_what_does_not_fit_is_refused(mixture: Sdmp | PatchMix, group: int) -> None:
    x = images(12)
    with pytest.raises(ValueError, match=r"group|tile"):
        mix_views(mixture, [x, x], group=group)


@pytest.mark.parametrize("mixture", [PatchMix(4), Sdmp()])
def test_one_view_is_refused(mixture: Sdmp | PatchMix) -> None:
    """As from ``build_loader``, which knows of no method."""
    with pytest.raises(ValueError, match="two views of an image"):
        mix_views(mixture, [images()])


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--patchmix.patch", "5"), "5 pixels .* 32 of --image-size 32"),
        (("--patchmix.patch", "8", "--multi-scale", "32", "28"), "28 of --multi-scale"),
    ],
)
def test_patches_that_do_not_tile_a_view_are_refused_before_the_run(
    words: tuple[str, ...], named: str
) -> None:
    config = cli.parse(["--method", "moco-v3", "--mix", "patchmix", *words])
    with pytest.raises(ValueError, match=named):
        check(resolve(config, DATASETS["cifar10"], "no"), 1)


def test_a_vit_sets_the_patch() -> None:
    def patch(*words: str) -> int:
        given = cli.parse(["--method", "moco-v3", "--mix", "patchmix", *words])
        return patch_of(resolve(given, IMAGENET, "no"))

    assert patch("--backbone", "vit_small_patch16_224") == 16
    assert patch("--backbone", "vit_small_patch16_224", "--backbone-args", "patch_size=8") == 8
    assert patch("--backbone", "resnet18") == 0
    assert patch("--backbone", "resnet18", "--patchmix.patch", "7") == 7


@pytest.mark.parametrize("mix", ["sdmp", "patchmix"])
@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--method", "simclr"), "moco-v3"),
        (("--method", "moco-v3", "--mix-draw", "group"), "--mix-draw group"),
        (("--method", "moco-v3", "--resolutions", "32", "24"), "--resolutions"),
        (("--method", "moco-v3", "--mix-terms", "replace"), "--mix-terms"),
    ],
)
def test_runs_that_have_no_such_loss_are_refused(
    mix: str, words: tuple[str, ...], named: str
) -> None:
    config = cli.parse([*words, "--mix", mix])
    with pytest.raises(ValueError, match=named):
        check(resolve(config, DATASETS["cifar10"], "no"), 1)


def test_a_sum_with_them_is_refused() -> None:
    with pytest.raises(ValueError, match="sdmp cannot be added"):
        cli.parse(["--method", "moco-v3", "--mix", "unmix+sdmp"])
