"""The numbers of a view: flips and quarter turns in every augmenter, ranges, overrides."""

import re
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.augment import reference
from pipelines.augment.channels import ChannelAugmenter
from pipelines.augment.cpu import CpuAugmenter
from pipelines.augment.params import ViewParams, draw_params, random_resized_box
from pipelines.presets import PRESETS
from pipelines.rng import RowRng
from pipelines.views import View, ViewOverrides, table_of

ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def sizes(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full(n, 375, np.int32), np.full(n, 500, np.int32)


def unlike(size: int) -> torch.Tensor:
    """Crops without any symmetry, one for each of the 16 flips and quarter turns."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (16, size, size, 3), dtype=torch.uint8, generator=generator)


TURNED = View(9, jitter_prob=0.0, gray=0.0, vertical_flip=0.5, rotate90=1.0)


def every_orientation() -> ViewParams:
    """Draws in which row i has a horizontal flip, a vertical one, and quarter turns: its bits."""
    drawn, i = draw_params(TURNED, 0, RowRng(0, 0), np.arange(16), *sizes(16)), np.arange(16)
    return replace(drawn, flip=i % 2 == 1, vertical_flip=i // 2 % 2 == 1, quarter_turns=i // 4)


@pytest.mark.parametrize("blurred", [False, True])
def test_flips_and_quarter_turns_are_those_of_numpy_exactly(blurred: bool) -> None:
    """Both augmenters of the host; test_augment_triton.py has the third."""
    crops, drawn = unlike(9), every_orientation()
    expected = []
    for i, crop in enumerate(crops.numpy()):
        image = crop[:, ::-1] if i % 2 else crop
        image = image[::-1] if i // 2 % 2 else image
        expected.append(np.rot90(image, i // 4))
    upright = torch.from_numpy(np.stack(expected))
    view = replace(TURNED, blur=float(blurred))
    drawn = replace(drawn, sigma=np.full(16, blurred, np.float32))
    nothing = {"flip": np.zeros(16, bool), "vertical_flip": np.zeros(16, bool)}
    plain = replace(drawn, **nothing, quarter_turns=np.zeros(16, np.int64))
    host = CpuAugmenter(1)
    for augmenter in (host, reference):
        turned = augmenter.augment(crops, augmenter.plan(view, drawn), ZERO, ONE)
        kept = augmenter.augment(upright, augmenter.plan(view, plain), ZERO, ONE)
        assert torch.equal(turned, kept) and turned.stride() == kept.stride()
        if not blurred:
            pixels = turned.permute(0, 2, 3, 1).mul(255).round().byte()
            assert torch.equal(pixels, upright)
    host.close()


def test_contrast_of_a_turned_image_is_that_of_the_image() -> None:
    crops, drawn = unlike(9), every_orientation()
    view = replace(TURNED, jitter_prob=1.0, jitter=(0.4, 0.4, 0.4, 0.1))
    drawn = replace(drawn, jitter=np.ones(16, bool))
    host = CpuAugmenter(1)
    ours = host.augment(crops, host.plan(view, drawn), ZERO, ONE)
    theirs = reference.augment(crops, reference.plan(view, drawn), ZERO, ONE)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    host.close()


def test_turns_are_drawn_alike_and_move_no_other_draw() -> None:
    """Slots 22 to 35 are those of every earlier run; those of the turns come after them."""
    n, rows = 20_000, np.arange(20_000)
    view = View(32, blur=0.5, solarize=0.2)
    u = RowRng(4, 2).uniform(rows, 1, 36)
    for one in (view, replace(view, vertical_flip=0.3, rotate90=0.8)):
        drawn = draw_params(one, 1, RowRng(4, 2), rows, *sizes(n))
        np.testing.assert_array_equal(drawn.flip, u[:, 22] < 0.5)
        np.testing.assert_array_equal(drawn.jitter, u[:, 23] < 0.8)
        np.testing.assert_array_equal(drawn.gray, u[:, 24] < 0.2)
        np.testing.assert_array_equal(drawn.sigma > 0, u[:, 25] < 0.5)
        np.testing.assert_array_equal(drawn.solarize, u[:, 27] < 0.2)
        brightness = (0.6 + 0.8 * u[:, 28]).astype(np.float32)
        np.testing.assert_allclose(drawn.factor[:, 0], brightness, rtol=1e-6)
        np.testing.assert_array_equal(drawn.order, np.argsort(u[:, 32:], axis=1))
        np.testing.assert_array_equal(drawn.box, random_resized_box(view, u, *sizes(n)))
    assert abs(drawn.vertical_flip.mean() - 0.3) < 0.02
    shares = np.bincount(drawn.quarter_turns, minlength=4) / n
    np.testing.assert_allclose(shares, [0.4, 0.2, 0.2, 0.2], atol=0.02)
    assert abs(np.corrcoef(drawn.quarter_turns > 0, drawn.vertical_flip)[0, 1]) < 0.03
    still = draw_params(view, 1, RowRng(4, 2), rows, *sizes(n))
    assert not still.vertical_flip.any() and not still.quarter_turns.any()


@pytest.mark.parametrize(
    ("numbers", "wrong"),
    [
        ({"flip": 1.1}, "flip must be at least 0 and at most 1, not 1.1"),
        ({"rotate90": -0.1}, "rotate90 must be"),
        ({"scale": (0.0, 1.0)}, "scale must be above 0"),
        ({"scale": (1.0, 0.2)}, "scale 1 0.2: the smaller number comes first"),
        ({"blur_sigma": (0.0, 2.0)}, "blur-sigma must be above 0"),
        ({"jitter": (0.4, 0.4, 0.4, 0.6)}, "hue, is at most 0.5"),
        ({"jitter": (-0.4, 0.4, 0.4, 0.1)}, "jitter must be at least 0"),
        ({"gray": float("nan")}, "gray must be"),
    ],
)
def test_numbers_out_of_range_are_refused(numbers: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValueError, match=re.escape(wrong)):
        View(32, **numbers)


def test_overrides_are_the_numbers_of_a_view() -> None:
    """All but the side and the place of grayscale."""
    names = {field.name for field in fields(View)} - {"size", "gray_first"}
    assert {field.name for field in fields(ViewOverrides)} == names
    view = PRESETS["moco-v1"](32)[0]
    assert ViewOverrides().apply(view) == view
    assert ViewOverrides(flip=0.0, scale=(0.5, 1.0)).apply(view) == replace(
        view, flip=0.0, scale=(0.5, 1.0)
    )


def test_the_table_of_views_joins_neighbours_that_are_equal() -> None:
    head, *lines = table_of(PRESETS["swav"](224))
    assert head.split()[:4] == ["view", "side", "scale", "ratio"]
    assert [line.split()[:4] for line in lines] == [
        ["0-1", "224", "0.14", "1"],
        ["2-7", "96", "0.05", "0.14"],
    ]
    assert len(table_of(PRESETS["byol"](32))) == 3


@pytest.mark.parametrize("channels", [1, 5])
def test_every_channel_is_turned_alike(channels: int) -> None:
    crops = unlike(9)[..., :1].repeat(1, 1, 1, channels)
    host = ChannelAugmenter(CpuAugmenter(1), channels)
    turned = host.augment(crops, host.plan(TURNED, every_orientation()), (0.0,) * 5, (1.0,) * 5)
    rgb = host.rgb.augment(unlike(9), host.rgb.plan(TURNED, every_orientation()), ZERO, ONE)
    assert torch.equal(turned, rgb[:, :1].expand(-1, channels, -1, -1))
    host.rgb.close()
