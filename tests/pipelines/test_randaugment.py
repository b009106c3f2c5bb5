"""RandAugment: each operation against timm's on Pillow images, and its draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment as timm

from pipelines.augment import reference
from pipelines.augment.build import build_augmenter
from pipelines.augment.params import RAND_OPERATIONS, ViewParams, draw_params
from pipelines.augment.randaugment import FILL, OPERATIONS, RandAugmenter
from pipelines.rng import RowRng
from pipelines.views import View, ViewOverrides

CPU = torch.device("cpu")
ROWS = np.arange(4000)
MEAN, STD = (0.4, 0.5, 0.6), (0.25, 0.2, 0.3)
VIEW = View(24, rand_augment=(2.0, 10.0, 0.5))


def images(side: int = 24) -> torch.Tensor:
    """Smooth and noisy images, a flat one, and one of two values: (4, 3, side, side) in 0..255."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (3, side, side), generator=generator)
    ramp = torch.linspace(20, 200, side).expand(3, side, side).round()
    flat = torch.full((3, side, side), 77)
    return torch.stack((noise, ramp + 10, flat, (noise > 99) * 150 + 30)).float()


def by_timm(name: str, image: torch.Tensor, level: float) -> torch.Tensor:
    """Apply timm's operation at a level of -10 to 10."""
    arguments = timm.LEVEL_TO_ARG[name](abs(level), {}) if timm.LEVEL_TO_ARG[name] else ()
    arguments = [abs(a) * (1 if level >= 0 else -1) if name in SIGNED else a for a in arguments]
    picture = Image.fromarray(image.permute(1, 2, 0).byte().numpy())
    fill = {"fillcolor": (int(FILL),) * 3, "resample": Image.Resampling.BILINEAR}
    made = timm.NAME_TO_OP[name](picture, *arguments, **fill)
    return torch.from_numpy(np.array(made)).permute(2, 0, 1).float()


SIGNED = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")


@pytest.mark.parametrize("op", range(RAND_OPERATIONS), ids=timm._RAND_TRANSFORMS)
@pytest.mark.parametrize("level", [10, 9.25, 5, -7.75, 2.5])
def test_each_operation_is_timm_s(op: int, level: float) -> None:
    x, name = images(), timm._RAND_TRANSFORMS[op]
    made = OPERATIONS[op](x.clone(), torch.full((4, 1, 1, 1), float(level)))
    expected = torch.stack([by_timm(name, image, level) for image in x])
    assert torch.equal(made, made.round()) and made.min() >= 0 and made.max() <= 255
    difference = (made - expected).abs()
    if name in SIGNED:  # Pillow rounds, or not; a pixel whose source is the border may be gray
        assert (difference > 1).float().mean() < 0.002
    else:
        assert difference.max() == 0


def drawn(view: View, number: int = 0) -> ViewParams:
    size = np.full(len(ROWS), 40, np.int32)
    return draw_params(view, number, RowRng(1, 0), ROWS, size, size)


def test_draws_follow_timm_s_distributions() -> None:
    params = drawn(VIEW)
    assert params.rand_ops.shape == params.rand_levels.shape == (len(ROWS), 2)
    fired = params.rand_ops >= 0
    assert fired.mean() == pytest.approx(0.5, abs=0.02)
    assert (fired[:, 0] & fired[:, 1]).mean() == pytest.approx(0.25, abs=0.02)
    counts = np.bincount(params.rand_ops[fired], minlength=RAND_OPERATIONS)
    assert np.abs(counts / fired.sum() - 1 / 15).max() < 0.015
    levels = params.rand_levels
    assert (levels < 0).mean() == pytest.approx(0.5, abs=0.02)
    assert np.abs(levels).max() == 10 and (np.abs(levels) == 10).mean() == pytest.approx(
        0.5, abs=0.02
    )
    below = 10 - np.abs(levels)[np.abs(levels) < 10]  # half a normal distribution
    assert np.sqrt((below**2).mean()) == pytest.approx(0.5, abs=0.015)


def test_all_other_draws_are_those_of_a_view_without_it() -> None:
    plain, rand = drawn(replace(VIEW, rand_augment=(0.0, 10.0, 0.5))), drawn(VIEW)
    assert plain.rand_ops.shape == (len(ROWS), 0)
    for name in plain.__slots__:
        if not name.startswith("rand"):
            assert np.array_equal(getattr(plain, name), getattr(rand, name))


def crops() -> torch.Tensor:
    return images().permute(0, 2, 3, 1).byte().contiguous().repeat(5, 1, 1, 1)


def rows_of(params: ViewParams, rows: slice) -> ViewParams:
    return ViewParams(*(getattr(params, name)[rows] for name in params.__slots__))


def test_it_follows_all_other_operations() -> None:
    """Each row equals timm's operations on the finished view in whole grey levels."""
    augmenter, params = RandAugmenter(reference), rows_of(drawn(VIEW), slice(20))
    plain = reference.augment(crops(), reference.plan(VIEW, params), MEAN, STD)
    made = augmenter.augment(crops(), augmenter.plan(VIEW, params), MEAN, STD)
    assert made.is_contiguous(memory_format=torch.channels_last)
    center, scale = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    for row in range(20):
        if (params.rand_ops[row] < 0).all():
            assert torch.equal(made[row], plain[row])
            continue
        expected = ((plain[row] * scale + center) * 255).round().clamp(0, 255)[None]
        for op, level in zip(params.rand_ops[row], params.rand_levels[row], strict=True):
            if op >= 0:
                expected = OPERATIONS[op](expected, torch.full((1, 1, 1, 1), float(level)))
        levels = (made[row] * scale + center) * 255
        torch.testing.assert_close(levels, expected[0], atol=2e-3, rtol=0)


def test_the_host_s_augmenter_agrees_with_the_reference() -> None:
    params = rows_of(drawn(VIEW), slice(20))
    fast, slow = build_augmenter(CPU, 2, rand_augment=True), RandAugmenter(reference)
    a, b = (x.augment(crops(), x.plan(VIEW, params), MEAN, STD) for x in (fast, slow))
    # 1e-5 before it can round to the next grey level, which an operation may stretch
    assert ((a - b).abs() > 1e-4).float().mean() < 0.01


def test_a_row_does_not_depend_on_the_others() -> None:
    augmenter, params = RandAugmenter(reference), drawn(VIEW)
    whole, part = rows_of(params, slice(20)), rows_of(params, slice(8, 12))
    a = augmenter.augment(crops(), augmenter.plan(VIEW, whole), MEAN, STD)[8:12]
    b = augmenter.augment(crops()[8:12], augmenter.plan(VIEW, part), MEAN, STD)
    assert ((a - b).abs() > 1e-4).float().mean() < 0.01


def test_other_channels_and_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"RandAugment .* have 4 channels: --aug\.rand-augment 0"):
        build_augmenter(CPU, 1, 4, rand_augment=True)
    for numbers in ((6.0, 10.0, 0.5), (1.5, 10.0, 0.5), (2.0, 11.0, 0.5)):
        with pytest.raises(ValueError, match=r"rand-augment .* 0 to 5 operations"):
            ViewOverrides(rand_augment=numbers).check("--aug.")
