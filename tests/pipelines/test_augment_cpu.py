"""Augmentation on the host against the reference (test_augment.py: against torchvision)."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from augment_cases import drawn_for, noise

from pipelines.augment.cpu import CpuAugmenter, CpuPlan
from pipelines.augment.params import ViewParams
from pipelines.augment.reference import augment, plan
from pipelines.presets import PRESETS
from pipelines.views import View

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
TOLERANCE = 1e-5
"""In units in which black is 0 and white 1."""


@pytest.fixture(scope="module")
def host() -> Iterator[CpuAugmenter]:
    made = CpuAugmenter(2)
    yield made
    made.close()


def check(host: CpuAugmenter, crops: torch.Tensor, view: View, drawn: ViewParams) -> torch.Tensor:
    """The two finishers agree; returns the host's view with values in [0, 1]."""
    before = crops.clone()
    ours = host.augment(crops, CpuPlan(view, drawn), MEAN, STD)
    theirs = augment(crops, plan(view, drawn), MEAN, STD)
    assert torch.equal(crops, before)
    assert ours.dtype == theirs.dtype and ours.stride() == theirs.stride()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    ours, theirs = ours * std + mean, theirs * std + mean
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)
    return ours


@pytest.mark.parametrize("size", [8, 24, 33, 96, 224])
@pytest.mark.parametrize("preset", PRESETS)
def test_equals_the_device_s_finisher(host: CpuAugmenter, preset: str, size: int) -> None:
    n = 8 if size > 96 else 32
    for number, view in enumerate(dict.fromkeys(PRESETS[preset](size))):
        check(host, noise(n, view.size), view, drawn_for(view, n, number))


@pytest.mark.parametrize("factor", [(0, 0, 0, 0), (1.8, 1.8, 1.8, 0.5), (5, 0.01, 9, -0.5)])
@pytest.mark.parametrize("gray_first", [False, True])
def test_extreme_factors_in_every_order(
    host: CpuAugmenter, factor: tuple[float, ...], gray_first: bool
) -> None:
    view = View(24, gray=0.3, gray_first=gray_first)
    drawn = drawn_for(view, n=200, jitter=True, factor=factor)
    assert len(np.unique(drawn.order, axis=0)) == 24
    check(host, noise(200, 24), view, drawn)


@pytest.mark.parametrize("active", range(4))
def test_each_operation_alone(host: CpuAugmenter, active: int) -> None:
    """An operation of strength 0 is left out, whatever its factor says."""
    strength = np.where(np.arange(4) == active, 0.4, 0.0)
    view = View(33, jitter=tuple(strength.tolist()), gray=0.0)
    check(host, noise(48, 33), view, drawn_for(view, jitter=True, factor=(0.5, 1.5, 0.3, 0.2)))


@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_hue_leaves_gray_alone(host: CpuAugmenter, level: int) -> None:
    view = View(24, jitter=(0.0, 0.0, 0.0, 0.5), gray=0.0)
    crops = torch.full((48, 24, 24, 3), level, dtype=torch.uint8)
    view_of_gray = check(host, crops, view, drawn_for(view, jitter=True))
    assert (view_of_gray - level / 255).abs().max() < TOLERANCE


def test_hue_of_all_colours(host: CpuAugmenter) -> None:
    view = View(64, jitter=(0.0, 0.0, 0.0, 0.5), gray=0.0)
    level = torch.linspace(0, 255, 16).round().to(torch.uint8)
    colours = torch.cartesian_prod(level, level, level).view(1, 64, 64, 3)
    check(host, colours.expand(48, -1, -1, -1), view, drawn_for(view, jitter=True))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9, 17, 40])
@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.7, 1.3, 2.0])
def test_blur_of_any_width(host: CpuAugmenter, size: int, sigma: float) -> None:
    """Also of crops smaller than the kernel, whose borders mirror all of it."""
    view = View(size, blur=1.0)
    for jitter in (False, True):
        check(host, noise(6, size), view, drawn_for(view, 6, sigma=sigma, jitter=jitter))


def test_solarize_and_flip_together(host: CpuAugmenter) -> None:
    view = View(24, blur=0.5)
    for flip in (False, True):
        drawn = drawn_for(view, flip=flip, solarize=True)
        check(host, noise(48, 24), view, drawn)


def test_a_row_does_not_depend_on_workers_or_neighbours(host: CpuAugmenter) -> None:
    view, crops = PRESETS["byol"](32)[1], noise(48, 32)
    drawn = drawn_for(replace(view, blur=0.5))
    one, three = CpuAugmenter(1), CpuAugmenter(3)
    alone = one.augment(crops, CpuPlan(view, drawn), MEAN, STD)
    assert torch.equal(alone, three.augment(crops, CpuPlan(view, drawn), MEAN, STD))
    some = replace(drawn, **{k: getattr(drawn, k)[7:9] for k in ViewParams.__slots__})
    assert torch.equal(alone[7:9], one.augment(crops[7:9], CpuPlan(view, some), MEAN, STD))
    for each in (one, three):
        each.close()


def test_no_rows(host: CpuAugmenter) -> None:
    view = View(8)
    views = host.augment(noise(0, 8), CpuPlan(view, drawn_for(view, 0)), MEAN, STD)
    assert views.shape == (0, 3, 8, 8)


def test_crops_of_another_size_are_refused(host: CpuAugmenter) -> None:
    view = View(8)
    for crops in (noise(4, 9), noise(3, 8)):
        with pytest.raises(ValueError, match="are not 4 of 8 pixels"):
            host.augment(crops, CpuPlan(view, drawn_for(view, 4)), MEAN, STD)
