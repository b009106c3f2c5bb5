"""Label-free mixtures against loops over single images, and their distributions."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from runs import run_train

from pipelines.mixtures.image_mixture import (
    Edits,
    ImageMixture,
    ImConfig,
    LabelFreeName,
    cutout_boxes,
    erased,
    region_boxes,
)
from pipelines.rng import RowRng

NAMES = get_args(LabelFreeName)
ALWAYS = ImConfig(g_prob=0.7, r_prob=0.7, mask_prob=0.7, r_pixel_decay=0.5)
DRAWS = RowRng(3, 1)
NUM_ROWS, SIDE = 400, 16


def images(rows: np.ndarray, side: int = SIDE) -> torch.Tensor:
    """The view of each row: a function of its number alone."""
    made = [torch.rand(3, side, side, generator=torch.manual_seed(int(r))) for r in rows]
    return torch.stack(made)


def edited(name: LabelFreeName, config: ImConfig, rows: np.ndarray, group: int = 8) -> torch.Tensor:
    edits = ImageMixture(name, config).edits(DRAWS, rows, group, NUM_ROWS, SIDE)
    return edits(images(np.concatenate([rows, edits.extra])))


def by_loop(edits: Edits, view: torch.Tensor) -> torch.Tensor:
    """The edits as arithmetic on one image after the other, in float64."""
    raw = view.double().numpy()
    blended = raw.copy()
    for edit in edits.blends:
        for i, row in enumerate(edit.rows.tolist()):
            lam = edit.share[i].item()
            blended[row] = lam * blended[row] + (1 - lam) * raw[edit.partner[i]]
    out = blended.copy()
    for edit in edits.pastes:
        for i, row in enumerate(edit.rows.tolist()):
            top, bottom, left, right = edit.box[i].flatten().tolist()
            new = edit.share[i].item() * out[row]
            if len(edit.partner):
                new[:, top:bottom, left:right] = blended[edit.partner[i], :, top:bottom, left:right]
            else:
                new[:, top:bottom, left:right] = edit.value[i].item()
            out[row] = new
    return torch.from_numpy(out[: edits.count])


@pytest.mark.parametrize("partner", ["group", "dataset"])
@pytest.mark.parametrize("name", NAMES)
def test_edits_equal_a_loop(name: LabelFreeName, partner: Any) -> None:
    config = ImConfig(**{**vars(ALWAYS), "partner": partner})
    rows = np.arange(40, 72)
    edits = ImageMixture(name, config).edits(DRAWS, rows, 8, NUM_ROWS, SIDE)
    assert edits.blends or edits.pastes
    view = images(np.concatenate([rows, edits.extra]))
    expected = by_loop(edits, view)
    changed = (expected.float() != view[: len(rows)]).flatten(1).any(1)
    assert 0.3 < changed.float().mean() <= 1
    assert torch.allclose(edits(view.clone()), expected.float(), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_rank_makes_its_share_of_the_whole_batch(name: LabelFreeName) -> None:
    rows = np.arange(100, 164)
    whole = edited(name, ALWAYS, rows)
    parts = [edited(name, ALWAYS, part) for part in np.split(rows, 4)]
    assert torch.equal(whole, torch.cat(parts))


def test_partners_of_the_data_set_do_not_depend_on_the_batch() -> None:
    config = ImConfig(g_prob=0.7, r_prob=0.7, partner="dataset")
    rows = np.array([5, 9, 31, 77])
    alone = [edited("im", config, rows[i : i + 1], group=1) for i in range(4)]
    assert torch.equal(edited("im", config, rows), torch.cat(alone))


def test_partners_stay_in_the_group_and_are_never_the_row_itself() -> None:
    rows = np.arange(64)
    edits = ImageMixture("im", ALWAYS).edits(DRAWS, rows, 8, NUM_ROWS, SIDE)
    for edit in (*edits.blends, *edits.pastes):
        assert (edit.partner // 8 == edit.rows // 8).all()
        assert (edit.partner != edit.rows).all()


def test_defaults_leave_two_thirds_of_the_images_alone() -> None:
    """0.9^4: spec of IM, section 2.3."""
    rows = np.arange(20_000)
    edits = ImageMixture("im").edits(DRAWS, rows, 20_000, 20_000, 224)
    touched = torch.cat([edit.rows for edit in (*edits.blends, *edits.pastes)]).unique()
    assert 1 - len(touched) / len(rows) == pytest.approx(0.9**4, abs=0.012)


def test_both_views_share_partners_shares_and_boxes() -> None:
    rows = np.arange(64)
    large, small = (ImageMixture("im", ALWAYS).edits(DRAWS, rows, 8, 64, s) for s in (224, 96))
    for a, b in zip(large.pastes, small.pastes, strict=True):
        assert torch.equal(a.rows, b.rows) and torch.equal(a.partner, b.partner)
        assert ((a.box / 224 - b.box / 96).abs() < 2.1 / 96).all()
    for a, b in zip(large.blends, small.blends, strict=True):
        assert torch.equal(a.share, b.share)


def test_region_boxes_follow_the_paper() -> None:
    lam = np.array([1.0, 0.0, 0.75])
    centre = np.array([0.5, 0.0, 0.999])
    boxes = region_boxes(32, lam, centre, centre)
    assert boxes.tolist() == [[16, 16, 16, 16], [0, 16, 0, 16], [23, 32, 23, 32]]


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("mask", [7, 8])
def test_cutout_squares(mask: int, inside: bool) -> None:
    u = np.linspace(0, 1, 999, endpoint=False)
    boxes = cutout_boxes(32, mask, inside, u, u)
    sides = boxes[:, 1] - boxes[:, 0]
    assert boxes.min() == 0 and boxes.max() == 32
    assert (sides == mask).all() if inside else (sides <= mask).all() and (sides == mask).any()
    assert inside or sides.min() <= mask // 2 + 1


def test_erasing_has_the_area_and_the_shape_it_was_drawn() -> None:
    rng = np.random.default_rng(0)
    found = [erased(224, rng) for _ in range(2000)]
    boxes = np.array([box for box, _ in found])
    tall, wide = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    assert boxes.min() >= 0 and boxes.max() <= 224
    share = tall * wide / 224**2
    assert 0.018 < share.min() < 0.03 and 0.36 < share.max() < 0.401
    assert share.mean() == pytest.approx(0.205, abs=0.015)
    assert (tall / wide).min() > 0.28 and (tall / wide).max() < 3.5
    assert min(v for _, v in found) >= 0 and max(v for _, v in found) < 1


def test_groups_of_one_are_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = ("--mix", "im", "--batch-size", "16", "--groups", "16", "--output", str(tmp_path))
    assert run_train("--data", "photos", "--method", "simclr", *flags) == 2
    assert "--im.partner dataset" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_group_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="--groups"):
        ImageMixture("im").edits(DRAWS, np.arange(4), 1, NUM_ROWS, SIDE)
