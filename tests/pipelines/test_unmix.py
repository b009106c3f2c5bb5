"""Un-Mix: measured shares, partners inside groups, purity, and the numbers of its specification."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from mix_cases import mix_views, plan_views
from runs import two_steps

from pipelines.batch import Mixed
from pipelines.mixtures.registry import MixSettings, create_mixture
from pipelines.mixtures.unmix import UN_MIX, Placed, UnMix, UnMixPlan, mirrored, mix_rows, place
from tools.config.cli import parse
from tools.config.sharing import check_sharing
from tools.engine import trainer

ROOT = Path(__file__).parents[2]


def of_kind(kind: str) -> UnMix:
    mixture = create_mixture(kind)
    assert isinstance(mixture, UnMix)
    return mixture


def one_hot_rows(n: int, size: int = 16) -> torch.Tensor:
    """Row i is filled with 2**i, so that any mixture can be read back."""
    return (2.0 ** torch.arange(n)).view(n, 1, 1, 1).expand(n, 3, size, size).clone()


@pytest.mark.parametrize("kind", UN_MIX)
@pytest.mark.parametrize("seed", range(6))
def test_lam_is_the_share_of_own_pixels(kind: str, seed: int) -> None:
    x = one_hot_rows(8)
    (mixed,) = mix_views(of_kind(kind), [x], group=4, seed=seed)
    own, other = x[:, 0, 0, 0], x[mixed.partner][:, 0, 0, 0]
    expected = mixed.lam * own + (1 - mixed.lam) * other
    torch.testing.assert_close(mixed.image.mean((1, 2, 3)), expected)


@pytest.mark.parametrize("kind", UN_MIX)
def test_the_view_is_left_untouched_and_the_call_is_pure(kind: str) -> None:
    x = torch.rand(6, 3, 13, 13)
    before = x.clone()
    (a,) = mix_views(of_kind(kind), [x], seed=3)
    (b,) = mix_views(of_kind(kind), [x], seed=3)
    assert torch.equal(x, before)
    assert torch.equal(a.image, b.image) and torch.equal(a.lam, b.lam)


def test_partners_mirror_inside_groups_and_back() -> None:
    partner = mirrored(12, 4, torch.device("cpu"))
    assert partner.tolist() == [3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8]
    assert torch.equal(partner[partner], torch.arange(12))


CIFAR = [
    f"moco-{way}-unmix-cifar{n}-1000" for way in ("symmetric", "asymmetric") for n in (10, 100)
]


@pytest.mark.parametrize("name", CIFAR)
def test_a_partner_is_in_another_batch_norm_group_where_one_gpu_split_the_batch(name: str) -> None:
    """Spec 1.2, 1.5: the reversed batch sends class n mod 8 to 7 - n mod 8, group by group."""
    config = parse(["--recipe", str(ROOT / "recipes" / f"{name}.yaml")])
    rows, size = config.batch_size, config.batch_size // config.groups
    partner = mirrored(rows, rows // config.mixing_groups, torch.device("cpu"))
    own, other = torch.arange(rows) // size, partner // size
    assert (rows, config.groups) == (512, 8) and (own != other).all()
    assert len(set(zip(own.tolist(), other.tolist(), strict=True))) == config.groups


@pytest.mark.parametrize("name", ["moco-v2-unmix-imagenet", "moco-v1-unmix-imagenet-200"])
def test_a_partner_is_in_the_own_group_where_a_gpu_mixed_its_rows(name: str) -> None:
    config = parse(["--recipe", str(ROOT / "recipes" / f"{name}.yaml")])
    assert config.mixing_groups == config.groups == 8


def test_a_group_s_mean_varies_as_where_partners_come_from_another_group() -> None:
    """Var(lam mean_g + (1 - lam) mean_h) = (lam^2 + (1 - lam)^2) Var(mean_g) for g other than h."""
    lam, draws = 0.3, 20_000
    x = torch.randn(32, draws, 1, 1, generator=torch.Generator().manual_seed(0))
    spread = {}
    for groups in (8, 4, 1):
        mixed, _, _ = mix_rows(x, 32 // groups, Placed(None, lam))
        spread[groups] = mixed.view(8, 4, draws).mean(1).var()
    assert spread[8] == pytest.approx(1 / 4, rel=0.02)
    for groups in (4, 1):
        assert spread[groups] / spread[8] == pytest.approx(lam**2 + (1 - lam) ** 2, rel=0.02)


def test_rows_are_mixed_where_mix_groups_says(toy: Path, tmp_path: Path) -> None:
    """From the command line to the batch; without it, as many groups as ``--groups``."""
    partners = {}
    for words in ((), ("--mix-groups", "4"), ("--mix-groups", "2"), ("--mix-groups", "1")):
        seen: list[Mixed] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                trainer.Run, "train_on", lambda _, batch, seen=seen: seen.extend(batch.mixed)
            )
            two_steps("moco", toy, tmp_path / "-".join(words), "--mix", "unmix", *words)
        partners[words[1:]] = [(m.partner.tolist(), m.lam.tolist()) for m in seen]
        images = torch.cat([m.image for m in seen])
        if words == ():
            expected = images
        elif words[1] == "4":
            assert images.equal(expected)
    assert partners[()] == partners["4",]
    for groups in (4, 2, 1):
        of_groups = mirrored(16, 16 // groups, torch.device("cpu")).tolist()
        assert [partner for partner, _ in partners[str(groups),]] == [of_groups] * 2


@pytest.mark.parametrize(
    ("words", "processes", "named"),
    [
        (("--mix-groups", "4"), 8, "--mix-groups 4 and 8 processes"),
        (("--mix-groups", "4", "--accumulate", "8"), 1, "--mix-groups 4 and 1 process "),
        (("--mix-groups", "3"), 1, "--mix-groups 3"),
        (("--mix-groups", "16", "--batch-size", "16"), 1, "--mix-groups 16 makes groups of 1"),
        (("--groups", "4"), 8, "--groups 4 and 8 processes"),
    ],
)
def test_groups_that_processes_would_cut_are_refused(
    words: Sequence[str], processes: int, named: str
) -> None:
    config = parse(["--method", "moco", "--mix", "unmix", "--bn", "group", *words])
    with pytest.raises(ValueError, match=named):
        check_sharing(config, processes)


@pytest.mark.parametrize(("rows", "group"), [(9, 3), (10, 4), (3, 3)])
def test_odd_or_broken_groups_are_refused(rows: int, group: int) -> None:
    with pytest.raises(ValueError, match="even groups"):
        mirrored(rows, group, torch.device("cpu"))


def test_a_region_with_nothing_to_paste_is_the_view_itself() -> None:
    x = torch.rand(4, 3, 8, 8)
    image, _, lam = mix_rows(x, 4, Placed.of(*place(8, 8, (False, 1.0), np.random.default_rng(0))))
    assert torch.equal(image, x) and (lam == 1).all()


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
    ramp = np.linspace(0, 1, 25, dtype=np.float32).reshape(5, 5)
    image, _, lam = mix_rows(x, 2, Placed.of(ramp, 0.5))
    weight = torch.from_numpy(ramp)
    for row, partner in enumerate((1, 0, 3, 2)):
        expected = weight * x[row] + (1 - weight) * x[partner]
        torch.testing.assert_close(image[row], expected)
    assert lam.tolist() == [0.5] * 4 and torch.equal(x, one_hot_rows(4, size=5))


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


@pytest.mark.no_cover
@pytest.mark.parametrize(("size", "mean", "median", "below_half", "empty"), FACTS)
def test_effective_share_of_regions(
    size: int, mean: float, median: float, below_half: float, empty: float | None
) -> None:
    rng, n, mixture = np.random.default_rng(0), 30_000, UnMix(0.0)
    shares = np.array([place(size, size, mixture.draw(rng), rng)[1] for _ in range(n)])
    exact = exact_facts(size)
    found = (shares.mean(), np.median(shares), (shares < 0.5).mean(), (shares == 1).mean())
    for one, other, near in zip(found, exact, (0.003, 0.004, 0.005, 0.0009), strict=True):
        assert abs(one - other) < near
    assert abs(exact[0] - mean) < 0.0006 and abs(exact[1] - median) < 0.003
    assert abs(exact[2] - below_half) < 0.0008
    assert empty is None or abs(exact[3] - empty) < 0.0001


@pytest.mark.no_cover
def test_shares_chained_over_crops() -> None:
    """Un-Mix specification, 1.8: each box is drawn from the share that the last one left."""
    chained, free = _crop_shares(2500, chained=True), _crop_shares(1000, chained=False)
    assert np.abs(chained.mean(0) - (0.682, 0.782, 0.841, 0.879)).max() < 0.008
    assert abs(np.median(chained[:, 3]) - 0.891) < 0.008
    assert abs(free[:, 3].mean() - 0.686) < 0.05
    assert (free[:, 0] == chained[:1000, 0]).all()  # the first crop's box is the same
    views = [torch.zeros(2, 1, 8, 8)] * 2
    mixup = mix_views(UnMix(1.0, chained=True), views, (0, 1), group=2)
    assert mixup[0].lam.equal(mixup[1].lam)


def _crop_shares(groups: int, chained: bool) -> np.ndarray:
    """The shares (groups, 4) that are drawn for the crops of groups of two rows."""
    views = [torch.zeros(2 * groups, 0, side, side) for side in (224, 96, 96, 96)]
    plan = plan_views(UnMix(0.0, chained=chained, per_group=True), views, range(4), group=2)
    assert isinstance(plan, UnMixPlan)
    return np.array([[placed.lam for placed in group] for _, group in plan.places]).T


def test_views_of_a_step_agree_on_kind_and_share_but_not_on_the_box() -> None:
    views = [torch.rand(8, 3, 64, 64) for _ in range(4)]
    boxes_differ = False
    for step in range(20):
        a, b = mix_views(UnMix(0.5), views, (0, 2), seed=1, step=step, group=4)
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
        mixture = UnMix(0.5, per_group=per_group)
        return mix_views(mixture, [rows], seed=5, step=9, group=4, first=first)[0]

    whole = mixed(x, 0)
    for rank in range(world_size):
        mine = slice(rank * share, (rank + 1) * share)
        part = mixed(x[mine], rank * share)
        assert torch.equal(part.image, whole.image[mine])
        assert torch.equal(part.lam, whole.lam[mine])
        assert torch.equal(part.partner + rank * share, whole.partner[mine])
    assert len(whole.lam.unique()) > 1 if per_group else len(whole.lam.unique()) == 1


def test_names_and_bad_numbers() -> None:
    assert create_mixture("none") is None
    assert create_mixture("region") == UnMix(0.0, 1.0)
    assert create_mixture("unmix", MixSettings(0.3, 2.0)) == UnMix(0.3, 2.0)
    with pytest.raises(ValueError, match="did you mean unmix"):
        create_mixture("unmixed")
    with pytest.raises(ValueError, match="--mix-prob"):
        UnMix(1.5)
    with pytest.raises(ValueError, match="--mix-beta"):
        UnMix(0.5, 0.0)
