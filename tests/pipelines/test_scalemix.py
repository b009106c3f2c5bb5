"""ScaleMix and CropMix, and the further windows that a mixture may ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines.batch import Batch
from pipelines.decoders import Crops
from pipelines.decoders.memory import MemoryDecoder
from pipelines.mixtures.base import MixStep, Mixture, windows_of
from pipelines.mixtures.clim import PICK
from pipelines.mixtures.image_mixture import STREAM as EDITS
from pipelines.mixtures.registry import create_mixture
from pipelines.mixtures.scalemix import STREAM, ScaleMix, ScaleMixPlan
from pipelines.presets import PRESETS
from pipelines.rng import ORDER, RowRng
from pipelines.sampler import Sampler
from pipelines.settings import parts_of
from pipelines.sources.arrays import Arrays
from pipelines.sources.table import Table
from pipelines.step_maker import StepMaker
from pipelines.views import View, ViewPlan

CPU = torch.device("cpu")
SIDE, ROWS, BATCH = 16, 24, 8
VIEWS = ViewPlan(PRESETS["moco-v2"](SIDE))


class Counting(MemoryDecoder):
    """A decoder that keeps the rows of its calls, and how many windows each asked for."""

    def __init__(self, table: Table) -> None:
        super().__init__(table, interpolation="antialias", workers=1, device=CPU)
        self.calls: list[tuple[np.ndarray, int]] = []

    def __call__(self, rows: np.ndarray, crops: Sequence[Crops]) -> list[torch.Tensor]:
        self.calls.append((rows, len(crops)))
        return super().__call__(rows, crops)


def table() -> Table:
    pixels = np.random.default_rng(0).integers(0, 256, (ROWS, 20, 20, 3)).astype(np.uint8)
    sizes = np.full(ROWS, 20, np.int32)
    return Table(np.zeros(ROWS, np.int64), sizes, sizes, Arrays("made", pixels))


def maker(
    mixture: Mixture | str | None, views: ViewPlan = VIEWS, rank: int = 0, world_size: int = 1
) -> StepMaker:
    rows, order = table(), Sampler(ROWS, BATCH, 3, rank, world_size)
    made = create_mixture(mixture) if isinstance(mixture, str) else mixture
    numbers = (0.5,) * 3, (0.25,) * 3
    return StepMaker(rows, order, views, Counting(rows), *numbers, CPU, made, groups=2)


def batch_of(mixture: Mixture | str | None, views: ViewPlan = VIEWS) -> Batch:
    made = maker(mixture, views)
    return made.finish(made.decode(1))


def share_pasted(made: torch.Tensor, plain: torch.Tensor) -> torch.Tensor:
    """Return the share of pixels that differ, for each row."""
    return (made != plain).any(1).float().mean((1, 2))


def test_only_the_query_view_changes_and_inside_a_box_alone() -> None:
    plain, made = batch_of(None), batch_of("scalemix")
    assert len(made.views) == 2 and made.mixed == () and made.plain == ()
    assert torch.equal(made.views[1], plain.views[1])
    changed = (made.views[0] != plain.views[0]).any(1)
    assert changed.any(2).any(1).sum() > BATCH // 2  # some boxes are empty
    for row in changed:
        down, across = row.any(1).nonzero(), row.any(0).nonzero()
        if len(down):  # noise: two crops differ nearly everywhere
            box = row[down[0] : down[-1] + 1, across[0] : across[-1] + 1]
            assert box.float().mean() > 0.9


def test_the_box_shows_another_window_of_the_same_image() -> None:
    """Its pixels are those of a view of the row with the same numbers and draws of its own."""
    made, mixture = batch_of("scalemix"), maker("scalemix")
    draws = mixture.draw(1)
    (window,) = windows_of(draws.mix)
    assert window.view == draws.views[0] and window.of == 0
    assert not np.array_equal(window.params.box, draws.params[0].box)
    *views, pasted = mixture.augment(mixture.decode(1))
    assert torch.equal(views[1], made.views[1])
    either = (made.views[0] == views[0]) | (made.views[0] == pasted)
    assert either.all()


def test_a_view_pasted_into_itself_is_the_view() -> None:
    plan = maker("scalemix").draw(1).mix
    assert isinstance(plan, ScaleMixPlan)
    x, y = torch.rand(2, BATCH, 3, SIDE, SIDE)
    (x0, x1), mixed = plan.apply((x, y, x))
    assert torch.equal(x0, x) and x1 is y and mixed == ()


@pytest.mark.parametrize(("side", "mean"), [(32, 0.701), (224, 0.682)])
def test_the_mean_share_that_is_left_is_un_mix_s(side: int, mean: float) -> None:
    rows = np.arange(40_000)
    sizes = np.full(len(rows), 20, np.int32)
    many = Table(np.zeros(len(rows), np.int64), sizes, sizes, table().source)
    step = MixStep(0, 0, RowRng(0, 0), rows, rows, 2, [View(side)], (0,), {}, many)
    (box,) = ScaleMix().plan(step).boxes
    top, bottom, left, right = box.view(-1, 4).unbind(1)
    share = 1 - (bottom - top) * (right - left) / side**2
    assert share.mean().item() == pytest.approx(mean, abs=0.004)
    assert share.min() >= 0 and share.max() == 1


def test_all_other_draws_are_those_of_a_run_without_it() -> None:
    plain, mixed = maker(None).draw(2), maker("scalemix").draw(2)
    assert plain.views == mixed.views and np.array_equal(plain.shown, mixed.shown)
    for a, b in zip(plain.params, mixed.params, strict=True):
        assert all(np.array_equal(getattr(a, n), getattr(b, n)) for n in a.__slots__)


@pytest.mark.parametrize(("mix", "windows"), [(None, 2), ("scalemix", 3), ("scalemix+unmix", 3)])
def test_a_window_costs_no_decode(mix: str | None, windows: int) -> None:
    made = maker(mix)
    made.decode(1)
    ((rows, count),) = made.decoder.calls
    assert sorted(rows) == sorted(made.sampler.rows(1)) and count == windows


@pytest.mark.parametrize("mix", ["scalemix", "cropmix+unmix"])
def test_any_world_size_and_micro_batches_show_the_same_pixels(mix: str) -> None:
    both = ScaleMix((0, 1)) if mix == "scalemix" else mix
    whole = batch_of(both)
    ranks = [maker(both, VIEWS, rank, 2) for rank in range(2)]
    for parts in ([m.finish(m.decode(1)) for m in ranks], whole.parts(2)):
        for name in ("views", "plain"):
            pairs = zip(getattr(whole, name), *(getattr(p, name) for p in parts), strict=True)
            assert all(torch.equal(view, torch.cat(cut)) for view, *cut in pairs)
        for i, m in enumerate(whole.mixed):
            assert torch.equal(m.image, torch.cat([part.mixed[i].image for part in parts]))


@pytest.mark.parametrize("mix", ["scalemix+unmix", "unmix+scalemix"])
def test_un_mix_mixes_the_pasted_views_with_its_own_draws(mix: str) -> None:
    pasted, both, alone = batch_of("scalemix"), batch_of(mix), batch_of("unmix")
    assert torch.equal(both.views[0], pasted.views[0])
    (m,), (plain,) = both.mixed, alone.mixed
    assert torch.equal(m.lam, plain.lam) and m.term == "mixed_0"
    (expected,) = maker("unmix").mix(pasted.views, 1)[1]
    assert torch.equal(m.image, expected.image)


def test_targets_stay_plain_where_both_views_are_queries() -> None:
    plain, made = batch_of(None), batch_of(ScaleMix((0, 1)))
    for v in range(2):
        assert torch.equal(made.targets[v], plain.views[v])
        assert not torch.equal(made.views[v], plain.views[v])
    assert plain.targets is plain.views


def test_a_copy_at_another_side_has_the_box_scaled() -> None:
    views = (*VIEWS.views, replace(VIEWS.views[0], size=2 * SIDE))
    plan = maker("scalemix", ViewPlan(views, copies={2: 0})).draw(0).mix
    assert isinstance(plan, ScaleMixPlan)
    assert [window.of for window in plan.windows] == [0, 2]
    small, large = (box.view(-1, 4) for box in plan.boxes)
    assert (large - 2 * small).abs().max() <= 2  # whole pixels at each side


def test_cropmix_pastes_a_large_crop_into_a_small_one() -> None:
    made = maker("cropmix").draw(1)
    (window,) = made.windows()[2:]
    assert made.views[0].scale == (0.2, 0.6) and window[0].scale == (0.6, 1.0)
    assert made.views[1] == VIEWS.views[1]
    area = made.params[0].box[:, 2] * made.params[0].box[:, 3] / 400
    assert area.min() > 0.15 and area.max() < 0.65


def test_streams_of_windows_and_boxes_are_nobody_else_s() -> None:
    """For a thousand views, they are not those of views, neighbours, edits or the order of rows."""
    own = range(STREAM, STREAM + 2000)
    others = (range(1000), range(PICK, PICK + 1001), range(EDITS, EDITS + 1000), (ORDER,))
    assert all(set(own).isdisjoint(other) for other in others)


@pytest.mark.parametrize("mix", ["scalemix+im", "scalemix+cropmix", "clim+scalemix"])
def test_mixtures_that_exclude_windows_are_refused(mix: str) -> None:
    with pytest.raises(ValueError, match=r"label-free mixtures|clim cannot"):
        parts_of(mix)
