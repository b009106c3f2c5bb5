"""Random parameters against torchvision's distributions, operations against its functions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as tv
import torchvision.transforms.v2.functional as tvf

from pipelines.augment.params import center_box, draw_params, random_resized_box
from pipelines.augment.reference import (
    JITTER,
    AugmentPlan,
    augment,
    blur,
    gaussian_kernels,
    grayscale,
    plan,
    solarize,
)
from pipelines.presets import PRESETS
from pipelines.rng import RowRng
from pipelines.views import View

CPU = torch.device("cpu")
ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def sizes(n: int, height: int = 375, width: int = 500) -> tuple[np.ndarray, np.ndarray]:
    return np.full(n, height, np.int32), np.full(n, width, np.int32)


def images(n: int = 6, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, 3, size, size, generator=generator)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (40, 1000), (7, 5), (1, 1)])
def test_boxes_lie_inside_the_image(height: int, width: int) -> None:
    view, rows = View(32, scale=(0.05, 1.0)), np.arange(2000)
    u = RowRng(0, 0).uniform(rows, 0, 40)
    top, left, h, w = random_resized_box(view, u, *sizes(2000, height, width)).T
    assert (h >= 1).all() and (w >= 1).all()
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + h <= height).all() and (left + w <= width).all()


def test_boxes_follow_the_law_of_random_resized_crop() -> None:
    n, scale, ratio = 4000, (0.08, 1.0), (3 / 4, 4 / 3)
    u = RowRng(3, 0).uniform(np.arange(n), 0, 40)
    ours = random_resized_box(View(32, scale=scale), u, *sizes(n)).astype(float)
    torch.manual_seed(0)
    image = torch.zeros(3, 375, 500)
    theirs = np.array(
        [tv.RandomResizedCrop(32, scale, ratio).make_params([image]) for _ in range(n)],
        dtype=object,
    )
    theirs = np.array([[p["top"], p["left"], p["height"], p["width"]] for p in theirs], float)
    for law in (lambda b: b[:, 2] * b[:, 3], lambda b: b[:, 3] / b[:, 2], lambda b: b[:, 0]):
        a, b = np.sort(law(ours)), np.sort(law(theirs))
        grid = np.concatenate((a, b))
        distance = np.abs(np.searchsorted(a, grid) - np.searchsorted(b, grid)).max() / n
        assert distance < 0.044  # two-sample Kolmogorov-Smirnov, 1 in 1,000


def test_impossible_windows_fall_back_to_the_centre() -> None:
    u = RowRng(0, 0).uniform(np.arange(4), 0, 40)
    box = random_resized_box(View(32, scale=(0.9, 1.0)), u, *sizes(4, 40, 1000))
    np.testing.assert_array_equal(box, np.tile([0, 473, 40, 53], (4, 1)))  # 40 x 4/3 = 53


def test_centre_box_is_resize_then_centre_crop() -> None:
    box = center_box(*sizes(1, 375, 500), size=224, resize=256)
    np.testing.assert_array_equal(box, [[23, 86, 328, 328]])
    whole = center_box(*sizes(1, 32, 32), size=32, resize=32)
    np.testing.assert_array_equal(whole, [[0, 0, 32, 32]])


def test_probabilities_are_met() -> None:
    view = View(32, flip=0.5, jitter_prob=0.8, gray=0.2, blur=0.3, solarize=0.1)
    n = 20_000
    drawn = draw_params(view, 0, RowRng(0, 0), np.arange(n), *sizes(n))
    shares = [x.mean() for x in (drawn.flip, drawn.jitter, drawn.gray, drawn.sigma > 0)]
    np.testing.assert_allclose(
        [*shares, drawn.solarize.mean()], [0.5, 0.8, 0.2, 0.3, 0.1], atol=0.015
    )
    assert drawn.factor[:, 0].min() >= 0.6 and drawn.factor[:, 0].max() <= 1.4
    assert abs(drawn.factor[:, 3]).max() <= 0.1
    orders = np.unique(drawn.order, axis=0, return_counts=True)
    assert len(orders[0]) == 24 and orders[1].min() > n / 24 * 0.85


def test_presets_hold_the_published_numbers() -> None:
    swav = PRESETS["swav"](224)
    assert [v.size for v in swav] == [224] * 2 + [96] * 6
    assert [v.scale for v in swav] == [(0.14, 1.0)] * 2 + [(0.05, 0.14)] * 6
    first, second = PRESETS["byol"](224)
    assert (first.blur, second.blur, first.solarize, second.solarize) == (1.0, 0.1, 0.0, 0.2)
    assert PRESETS["moco-v1"](224)[0].gray_first and not PRESETS["moco-v1"](224)[0].blur
    assert PRESETS["simclr"](224)[0].jitter == (0.8, 0.8, 0.8, 0.2)
    assert [replace(v, scale=(0.08, 1.0)) for v in PRESETS["moco-v3"](224)] == [first, second]
    assert {v.scale for v in PRESETS["moco-v3"](224)} == {(0.2, 1.0)}
    dino = PRESETS["dino"](224)
    assert [(v.size, v.scale) for v in dino] == [(v.size, v.scale) for v in swav]
    assert [(v.blur, v.solarize) for v in dino] == [(1.0, 0.0), (0.1, 0.2)] + [(0.5, 0.0)] * 6
    (moco, _), (simsiam, _) = PRESETS["moco-v2"](32), PRESETS["simsiam-cifar"](32)
    assert simsiam == replace(moco, blur=0.0)


REFERENCE = [
    lambda x, f: tvf.adjust_brightness(x, f),
    lambda x, f: tvf.adjust_contrast(x, f),
    lambda x, f: tvf.adjust_saturation(x, f),
    lambda x, f: tvf.adjust_hue(x, f),
]


@pytest.mark.parametrize("op", range(4))
def test_jitter_equals_torchvision(op: int) -> None:
    x = images()
    factor = (
        torch.tensor([0.0, 0.3, 0.7, 1.0, 1.4, 1.8]) if op < 3 else torch.linspace(-0.5, 0.5, 6)
    )
    ours = JITTER[op](x, factor.view(-1, 1, 1, 1))
    theirs = torch.stack([REFERENCE[op](a, float(f)) for a, f in zip(x, factor, strict=True)])
    torch.testing.assert_close(ours, theirs, atol=3e-6, rtol=0)


def test_gray_and_solarize_equal_torchvision() -> None:
    x = images()
    torch.testing.assert_close(grayscale(x), tvf.rgb_to_grayscale(x, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(solarize(x), tvf.solarize(x, 0.5))


def test_hue_of_gray_and_black_pixels_is_left_alone() -> None:
    x = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    torch.testing.assert_close(JITTER[3](x, torch.full((3, 1, 1, 1), 0.3)), x)


def test_blur_equals_torchvision_at_the_same_reach() -> None:
    x, view = images(), View(32)
    sigma = np.array([0.1, 0.5, 1.0, 1.3, 1.7, 2.0], np.float32)
    kernels = torch.from_numpy(gaussian_kernels(sigma, view))
    taps = kernels.shape[1]
    theirs = [
        tvf.gaussian_blur(a, [taps, taps], [float(s)] * 2) for a, s in zip(x, sigma, strict=True)
    ]
    torch.testing.assert_close(blur(x, kernels), torch.stack(theirs), atol=2e-6, rtol=0)


def test_finish_is_the_operations_in_their_drawn_order() -> None:
    n, view = 64, View(24, blur=0.5, solarize=0.3)
    drawn = draw_params(view, 1, RowRng(1, 2), np.arange(n), *sizes(n))
    crops = torch.randint(0, 256, (n, 24, 24, 3), dtype=torch.uint8, generator=torch.manual_seed(0))
    before = crops.clone()
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    ours = augment(crops, plan(view, drawn), mean, std)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(crops, before)
    kernels = torch.from_numpy(gaussian_kernels(np.maximum(drawn.sigma, 0.1), view))
    for i in range(n):
        x = crops[i].permute(2, 0, 1).float() / 255
        if drawn.jitter[i]:
            for op in drawn.order[i]:
                x = REFERENCE[op](x, float(drawn.factor[i, op]))
        if drawn.gray[i]:
            x = tvf.rgb_to_grayscale(x, 3)
        if drawn.sigma[i] > 0:
            taps = kernels.shape[1]
            x = tvf.gaussian_blur(x, [taps, taps], [float(drawn.sigma[i])] * 2)
        if drawn.solarize[i]:
            x = tvf.solarize(x, 0.5)
        if drawn.flip[i]:
            x = tvf.hflip(x)
        torch.testing.assert_close(ours[i], tvf.normalize(x, mean, std), atol=3e-5, rtol=0)


def test_gray_first_jitters_a_gray_image() -> None:
    view = View(8, gray=1.0, gray_first=True, jitter_prob=1.0, jitter=(0.0, 0.0, 0.4, 0.4))
    rows = np.arange(4)
    crops = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    gray_then = augment(
        crops, plan(view, draw_params(view, 0, RowRng(0, 0), rows, *sizes(4))), ZERO, ONE
    )
    plain = grayscale(crops.permute(0, 3, 1, 2) / 255).clone()
    flip = draw_params(view, 0, RowRng(0, 0), rows, *sizes(4)).flip
    plain[torch.from_numpy(flip)] = plain[torch.from_numpy(flip)].flip(-1)
    torch.testing.assert_close(gray_then, plain, atol=1e-4, rtol=0)
    other = replace(view, gray_first=False)
    assert plan(other, draw_params(other, 0, RowRng(0, 0), rows, *sizes(4))).gray_first is False


def test_nothing_only_normalises() -> None:
    crops = torch.randint(0, 256, (3, 8, 8, 3), dtype=torch.uint8)
    out = augment(crops, AugmentPlan.nothing(3, CPU), ZERO, ONE)
    torch.testing.assert_close(out, crops.permute(0, 3, 1, 2) / 255)
