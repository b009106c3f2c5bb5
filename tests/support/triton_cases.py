"""Augmentation by Triton against PyTorch, run by test_augment_triton.py in Triton's interpreter.

It needs ``TRITON_INTERPRET=1`` before Triton is imported:
``TRITON_INTERPRET=1 pytest tests/support/triton_cases.py``.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from augment_cases import drawn_for, noise
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder

from pipelines.augment import triton as fused
from pipelines.augment.params import ViewParams
from pipelines.augment.reference import augment, plan
from pipelines.decoders.build import build_decoder
from pipelines.presets import PRESETS
from pipelines.sampler import Sampler
from pipelines.sources.folder import scan
from pipelines.step_maker import StepMaker
from pipelines.views import View, ViewPlan

assert os.environ.get("TRITON_INTERPRET") == "1", "kernels would be compiled for a GPU"

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
TOLERANCE = 1e-5
"""In units in which black is 0 and white 1."""


def made(
    crops: torch.Tensor, view: View, drawn: ViewParams, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    return fused.augment(crops, fused.plan(view, drawn), MEAN, STD, dtype)


def check(crops: torch.Tensor, view: View, drawn: ViewParams) -> None:
    before = crops.clone()
    ours, theirs = made(crops, view, drawn), augment(crops, plan(view, drawn), MEAN, STD)
    assert torch.equal(crops, before)
    assert ours.dtype == theirs.dtype and ours.stride() == theirs.stride()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    torch.testing.assert_close(ours * std + mean, theirs * std + mean, atol=TOLERANCE, rtol=0)


@pytest.fixture
def large_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's time is that of the programs, whatever their size."""
    monkeypatch.setattr(fused, "BLOCK", 8192)
    monkeypatch.setattr(fused, "SIDE", 128)


def ways(size: int) -> list[tuple[int, View]]:
    """The views of all presets that are finished in different ways, and their numbers."""
    found: dict[View, tuple[int, View]] = {}
    for preset in PRESETS.values():
        for number, view in enumerate(preset(size)):
            found.setdefault(replace(view, scale=(1.0, 1.0)), (number, view))
    return list(found.values())


@pytest.mark.parametrize(("number", "view"), ways(32))
def test_every_preset(number: int, view: View) -> None:
    check(noise(4, view.size), view, drawn_for(view, 4, number))


@pytest.mark.parametrize(("number", "view"), [way for way in ways(96) if way[1].blur])
def test_every_preset_larger(number: int, view: View, large_tiles: None) -> None:
    check(noise(2, view.size), view, drawn_for(view, 2, number))


def test_a_large_image_with_everything(large_tiles: None) -> None:
    view = View(224, blur=1.0)
    everything = {"jitter": True, "gray": True, "flip": True, "solarize": True}
    check(noise(1, 224), view, drawn_for(view, 1, **everything))


def test_contrast_with_the_mean_of_many_tiles() -> None:
    view = View(96, jitter=(0.0, 0.9, 0.0, 0.0), gray=0.0)
    crops = noise(1, 96) // torch.arange(1, 97).view(96, 1, 1).byte()  # bright at the top
    check(crops, view, drawn_for(view, 1, jitter=True, factor=0.3))


@pytest.mark.parametrize(
    ("factor", "gray_first"),
    [
        ((0, 0, 0, 0), False),
        ((1.8, 1.8, 1.8, 0.5), True),
        ((5, 0.01, 9, -0.5), False),
        ((5, 0.01, 9, -0.5), True),
    ],
)
def test_extreme_factors_in_every_order(factor: tuple[float, ...], gray_first: bool) -> None:
    view = View(12, gray=0.3, gray_first=gray_first)
    drawn = drawn_for(view, n=200, jitter=True, factor=factor)
    some = np.unique(drawn.order, axis=0, return_index=True)[1]  # a row of each order
    drawn = replace(drawn, **{k: getattr(drawn, k)[some] for k in ViewParams.__slots__})
    assert len(some) == 24 and drawn.gray.any() and not drawn.gray.all()
    check(noise(24, 12), view, drawn)


@pytest.mark.parametrize("active", range(4))
def test_each_operation_alone(active: int) -> None:
    """An operation of strength 0 is left out, whatever its factor says."""
    strength = np.where(np.arange(4) == active, 0.4, 0.0)
    view = View(33, jitter=tuple(strength.tolist()), gray=0.0)
    check(noise(6, 33), view, drawn_for(view, 6, jitter=True, factor=(0.5, 1.5, 0.3, 0.2)))


def test_hue_of_all_colours() -> None:
    view = View(64, jitter=(0.0, 0.0, 0.0, 0.5), gray=0.0)
    level = torch.linspace(0, 255, 16).round().to(torch.uint8)
    colours = torch.cartesian_prod(level, level, level).view(1, 64, 64, 3)
    check(colours.expand(4, -1, -1, -1).contiguous(), view, drawn_for(view, 4, jitter=True))


@pytest.mark.parametrize("size", [1, 2, 9, 20])
@pytest.mark.parametrize("sigma", [0.1, 2.0])
def test_blur_of_any_width(size: int, sigma: float) -> None:
    """Also of crops smaller than the kernel, whose borders mirror all of it."""
    view = View(size, blur=1.0)
    for jitter in (False, True):
        check(noise(2, size), view, drawn_for(view, 2, sigma=sigma, jitter=jitter))


@pytest.mark.parametrize("flip", [False, True])
def test_solarize_and_flip_with_and_without_blur(flip: bool) -> None:
    view = View(24, blur=0.5)
    drawn = drawn_for(view, 8, flip=flip, solarize=True)
    assert 0 < np.count_nonzero(drawn.sigma) < 8
    check(noise(8, 24), view, drawn)


@pytest.mark.parametrize("blurred", [False, True])
def test_flips_and_quarter_turns_are_those_of_numpy_exactly(
    blurred: bool, large_tiles: None
) -> None:
    view = View(20, jitter_prob=0.0, gray=0.0, blur=float(blurred), rotate90=1.0)
    crops, i = noise(16, 20), np.arange(16)
    drawn = replace(drawn_for(view, 16, sigma=float(blurred)), flip=i % 2 == 1)
    drawn = replace(drawn, vertical_flip=i // 2 % 2 == 1, quarter_turns=i // 4)
    upright = []
    for k, crop in enumerate(crops.numpy()):
        image = crop[:, ::-1] if k % 2 else crop
        image = image[::-1] if k // 2 % 2 else image
        upright.append(np.rot90(image, k // 4))
    still = drawn_for(view, 16, sigma=float(blurred), flip=False, quarter_turns=0)
    assert torch.equal(
        made(crops, view, drawn), made(torch.from_numpy(np.stack(upright)), view, still)
    )
    check(crops, replace(view, jitter_prob=1.0), replace(drawn, jitter=np.ones(16, bool)))


def test_a_row_does_not_depend_on_the_others() -> None:
    view, crops = replace(PRESETS["byol"](40)[1], blur=0.5), noise(6, 40)
    drawn = drawn_for(view, 6)
    alone = made(crops, view, drawn)
    assert torch.equal(alone, made(crops, view, drawn))
    some = replace(drawn, **{k: getattr(drawn, k)[2:4] for k in ViewParams.__slots__})
    assert torch.equal(alone[2:4], made(crops[2:4], view, some))


def test_bfloat16_is_the_view_within_its_rounding() -> None:
    """8 bits; the interpreter cuts the rest off, a GPU rounds."""
    view, crops = PRESETS["moco-v2"](32)[0], noise(6, 32)
    drawn = drawn_for(view, 6)
    assert 0 < np.count_nonzero(drawn.sigma) < 6
    half = made(crops, view, drawn, torch.bfloat16)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), made(crops, view, drawn), rtol=2**-7, atol=0)


def test_traffic_is_what_the_kernels_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte that a kernel reads or writes, once a kernel; tables are small change."""
    touched: list[tuple[int, np.ndarray]] = []
    total = 0

    def watched(name: str) -> None:
        original = getattr(InterpreterBuilder, name)

        def access(builder: object, pointers: Any, *more: Any) -> Any:
            mask = more[1] if "store" in name else more[0]
            size = pointers.get_element_ty().primitive_bitwidth // 8
            touched.append((size, pointers.data[mask.data]))
            return original(builder, pointers, *more)

        monkeypatch.setattr(InterpreterBuilder, name, access)

    def counted(launch: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal total
        call(launch, *args, **kwargs)
        for size in {size for size, _ in touched}:
            total += size * len(np.unique(np.concatenate([p for s, p in touched if s == size])))
        touched.clear()

    watched("create_masked_load")
    watched("create_masked_store")
    call = GridExecutor.__call__
    monkeypatch.setattr(GridExecutor, "__call__", counted)
    view = PRESETS["moco-v2"](32)[0]
    drawn = drawn_for(view, 6)
    assert 0 < np.count_nonzero(drawn.sigma) < 6 and 0 < np.count_nonzero(drawn.jitter) < 6
    for dtype in (torch.float32, torch.bfloat16):
        total = 0
        made(noise(6, 32), view, drawn, dtype)
        moved, least = fused.traffic(view, drawn, dtype)
        assert least == 6 * 32 * 32 * 3 * (1 + dtype.itemsize)
        tables = sum(t.nbytes for t in fused.plan(view, drawn).tensors())
        assert abs(moved - total) < 2 * tables < moved / 100


def test_the_loader_finishes_a_device_s_batches_with_it(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loader's way for a GPU, its streams and pinned memory replaced by nothing."""
    table, device = scan(toy / "train", tmp_path, "stop"), torch.device("cpu")
    decoder = build_decoder(
        "memory", table, interpolation="antialias", workers=1, device=device, on_bad="stop"
    )
    views = PRESETS["byol"](16)
    maker = StepMaker(table, Sampler(len(table), 8, 1), ViewPlan(views), decoder, MEAN, STD, device)
    expected = maker.finish(maker.decode(2))
    nothing = MagicMock()
    for name in ("stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda _: nothing)
    monkeypatch.setattr(torch.Tensor, "record_stream", nothing)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: x)
    nothing.record_event.return_value = MagicMock(spec=torch.cuda.Event)
    monkeypatch.setattr(maker, "stream", nothing)
    monkeypatch.setattr(maker, "augmenter", fused)
    ready = maker.decode(2)
    assert all(isinstance(plan, fused.FusedPlan) for plan in ready.plans)
    batch = maker.finish(ready)
    assert torch.equal(batch.index, expected.index)
    for ours, theirs in zip(batch.views, expected.views, strict=True):
        assert not torch.equal(ours, theirs)  # another finisher's
        torch.testing.assert_close(ours, theirs, atol=TOLERANCE / min(STD), rtol=0)


def test_no_rows() -> None:
    view = View(8)
    assert made(noise(0, 8), view, drawn_for(view, 0)).shape == (0, 3, 8, 8)


def test_other_crops_are_refused() -> None:
    view = View(8)
    for crops in (noise(3, 8), noise(4, 8)[:, :, :4], noise(4, 8).transpose(1, 2)):
        with pytest.raises(ValueError, match="are not 4 square images"):
            made(crops, view, drawn_for(view, 4))
