"""Tests on a CUDA device: the same pixels as on the host, and steps without synchronization."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from launch_cases import flags
from runs import CASES, MIXES, SMALL, lines, run_train
from torch import Tensor

from pipelines.augment import triton as fused
from pipelines.augment.build import build_augmenter
from pipelines.augment.params import ViewParams, draw_params
from pipelines.augment.reference import augment, plan
from pipelines.beton.convert import cached_beton
from pipelines.decoders import Crops
from pipelines.decoders.build import build_decoder
from pipelines.decoders.pil import crops_with_pil
from pipelines.loader import Loader
from pipelines.mixtures.registry import create_mixture
from pipelines.presets import PRESETS
from pipelines.rng import RowRng
from pipelines.sampler import Sampler
from pipelines.sources.folder import scan
from pipelines.sources.table import Table
from pipelines.step_maker import StepMaker
from pipelines.views import View, ViewPlan
from tools.engine import trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
GREY_LEVEL = 1 / 255 / STD[0]
"""A grey level in a finished view."""
PACKAGES = {"ffcv": "ffcv", "dali": "nvidia.dali"}


@pytest.fixture
def table(toy: Path, tmp_path: Path) -> Table:
    return scan(toy / "train", tmp_path, "stop")


def windows(table: Table, size: int) -> tuple[np.ndarray, list[Crops]]:
    """All rows, with two random windows of each."""
    rows = np.arange(len(table))
    draws = RowRng(0, 0)
    view = PRESETS["moco-v2"](size)[0]
    boxes = [draw_params(view, i, draws, rows, table.height, table.width).box for i in (0, 1)]
    return rows, [Crops(size, rows, box) for box in boxes]


def made_by(table: Table, loader: str, device: torch.device, size: int) -> list[Tensor]:
    rows, crops = windows(table, size)
    decoder = build_decoder(
        loader, table, interpolation="antialias", workers=2, device=device, on_bad="stop"
    )
    try:
        return [c.cpu() for c in decoder(rows, crops)]
    finally:
        decoder.close()


@pytest.mark.first
@pytest.mark.parametrize("preset", ["moco-v1", "moco-v2", "simclr", "byol"])
def test_the_finisher_agrees_with_the_host_s(preset: str) -> None:
    """Convolutions in TF32 move the blurred rows by less than a grey level."""
    rng = np.random.default_rng(0)
    rows = np.arange(64)
    crops = torch.from_numpy(rng.integers(0, 256, (64, 24, 24, 3), np.uint8))
    side = np.full(64, 40, np.int32)
    for number, view in enumerate(PRESETS[preset](24)):
        todo = plan(view, draw_params(view, number, RowRng(3, 0), rows, side, side))
        host = augment(crops, todo, MEAN, STD)
        device = augment(crops.to(CUDA), todo.to(CUDA), MEAN, STD)
        assert device.device == CUDA
        torch.testing.assert_close(device.cpu(), host, rtol=0, atol=GREY_LEVEL)


def crops_and_draws(view: View, number: int, n: int) -> tuple[Tensor, ViewParams]:
    """Noise on the device, and what happens to it."""
    rng, side = np.random.default_rng(view.size), np.full(n, 300, np.int32)
    crops = torch.from_numpy(rng.integers(0, 256, (n, view.size, view.size, 3), np.uint8))
    return crops.to(CUDA), draw_params(view, number, RowRng(3, 0), np.arange(n), side, side)


@pytest.mark.parametrize("size", [24, 32, 96, 224])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_fused_finisher_agrees_with_pytorch_s(
    preset: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 1e-5 of black to white, the same bits each time; bfloat16 is rounded."""
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    for number, view in enumerate(dict.fromkeys(PRESETS[preset](size))):
        crops, drawn = crops_and_draws(view, number, 48)
        before, todo = crops.clone(), fused.plan(view, drawn).to(CUDA)
        ours = fused.augment(crops, todo, MEAN, STD)
        theirs = augment(crops, plan(view, drawn).to(CUDA), MEAN, STD)
        assert torch.equal(crops, before) and ours.stride() == theirs.stride()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 / STD[0])
        assert torch.equal(ours, fused.augment(crops, todo, MEAN, STD))
        half = fused.augment(crops, todo, MEAN, STD, torch.bfloat16)
        assert torch.equal(half, ours.bfloat16())


@pytest.mark.first
def test_the_fused_finisher_agrees_at_extreme_factors() -> None:
    pytest.importorskip("triton")
    view = View(32, gray=0.3)
    crops, drawn = crops_and_draws(view, 0, 200)
    for factor in ((0, 0, 0, 0), (1.8, 1.8, 1.8, 0.5), (5, 0.01, 9, -0.5)):
        drawn.jitter[:], drawn.factor[:] = True, factor
        ours = fused.augment(crops, fused.plan(view, drawn).to(CUDA), MEAN, STD)
        theirs = augment(crops, plan(view, drawn).to(CUDA), MEAN, STD)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 / STD[0])


@pytest.mark.first
def test_the_fused_finisher_waits_for_nothing() -> None:
    """Once its kernels are compiled: neither handing over the plan nor finishing."""
    pytest.importorskip("triton")
    view = PRESETS["byol"](32)[0]
    crops, drawn = crops_and_draws(view, 0, 16)
    fused.augment(crops, fused.plan(view, drawn).to(CUDA), MEAN, STD)
    _, drawn = crops_and_draws(view, 1, 16)
    with no_waiting():
        fused.augment(crops, fused.plan(view, drawn).to(CUDA), MEAN, STD)


def test_rand_augment_agrees_with_the_host_s_and_waits_for_nothing() -> None:
    """But for pixels that the augmenter before it rounds to the next grey level."""
    view = PRESETS["asym"](32)[0]
    crops, drawn = crops_and_draws(view, 0, 200)
    device, host = (build_augmenter(where, 1, rand_augment=True) for where in (CUDA, CPU))
    todo = device.plan(view, drawn).to(CUDA)
    device.augment(crops, todo, MEAN, STD)
    with no_waiting():
        ours = device.augment(crops, device.plan(view, drawn).to(CUDA), MEAN, STD)
    theirs = host.augment(crops.cpu(), host.plan(view, drawn), MEAN, STD)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert ((ours.cpu() - theirs).abs() > 1.5 * GREY_LEVEL).float().mean() < 0.01


@pytest.mark.first
def test_the_memory_decoder_agrees_with_the_host_s(table: Table) -> None:
    """Matrix products in TF32 round a few pixels to the next grey level."""
    for host, device in zip(
        made_by(table, "memory", CPU, 16), made_by(table, "memory", CUDA, 16), strict=True
    ):
        gap = (host.int() - device.int()).abs()
        assert gap.max() <= 2 and gap.float().mean() < 0.5


def test_dali_on_the_device_agrees_with_pil(table: Table) -> None:
    pytest.importorskip(PACKAGES["dali"])
    rows, crops = windows(table, 16)
    for view, made in zip(crops, made_by(table, "dali", CUDA, 16), strict=True):
        for row, box, crop in zip(rows, view.box, made, strict=True):
            pixels = table.source.pixels(int(row))
            (expected,) = crops_with_pil(pixels, box[None], [view.size], "antialias")
            assert np.abs(crop.numpy().astype(int) - expected.astype(int)).mean() < 2


@pytest.mark.first
@pytest.mark.parametrize("name", ["memory", "ffcv", "dali"])
def test_the_loader_gives_the_host_s_batches(table: Table, toy: Path, name: str) -> None:
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    rows = cached_beton(table, f"folder:{toy / 'train'}") if name == "ffcv" else table

    def batches(device: torch.device) -> list:
        decoder = build_decoder(
            name, rows, interpolation="antialias", workers=2, device=device, on_bad="stop"
        )
        maker = StepMaker(
            table=rows,
            sampler=Sampler(len(rows), 8, 1),
            views=ViewPlan(PRESETS["moco-v2"](16)),
            decoder=decoder,
            mean=MEAN,
            std=STD,
            device=device,
            mixture=create_mixture("scalemix+unmix"),
            groups=2,
        )
        made = list(Loader(maker).batches(0, 10))
        decoder.close()
        return made

    for host, device in zip(batches(CPU), batches(CUDA), strict=True):
        assert host.step == device.step
        for key in ("index", "label", "position"):
            on_device = getattr(device, key)
            assert on_device.device == CUDA and torch.equal(on_device.cpu(), getattr(host, key))
        (a,), (b,) = host.mixed, device.mixed
        assert torch.equal(a.partner, b.partner.cpu()) and torch.equal(a.lam, b.lam.cpu())
        pairs = [*zip(host.views, device.views, strict=True), (a.image, b.image)]
        for x, y in pairs:
            # 2 grey levels on average, which colour jitter may stretch by (1.4)^3
            assert ((x - y.cpu()).abs().mean((1, 2, 3)) < 2 * 1.4**3 * GREY_LEVEL).all()


@contextmanager
def no_waiting() -> Iterator[None]:
    """Operations that make the host wait for the device raise."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.first
def test_waiting_is_noticed() -> None:
    x = torch.ones(3, device=CUDA)
    with no_waiting(), pytest.raises(RuntimeError, match="synchronizing"):
        x.sum().item()


@pytest.mark.parametrize(
    ("method", "mix", "precision", "optimizer"),
    [
        ("byol", "scalemix+unmix", "bf16", "lars"),
        ("moco-v3", "sdmp", "bf16", "lars"),
        ("moco-v3", "patchmix", "bf16", "lars"),
        *((*case, "bf16", "momentum" if case[0] == "moco" else "lars") for case in CASES),
        *(("moco", "unmix", "fp16", name) for name in ("momentum", "adamw")),
    ],
)
def test_no_step_waits_for_the_device(
    toy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    mix: str,
    precision: str,
    optimizer: str,
) -> None:
    """Law 8, from the second step on: the first one compiles, chooses and times.

    In fp16 only fused optimizers take the overflow's flag on the device; LARS has no such kernel.
    """

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(owner: Any, batch: Any) -> Any:
            if batch.step < 1:
                return function(owner, batch)
            with no_waiting():
                return function(owner, batch)

        return call

    for owner, name in ((trainer.Run, "train_on"), (StepMaker, "finish")):
        monkeypatch.setattr(owner, name, watched(getattr(owner, name)))
    more = ("--mix", mix, "--optimizer", optimizer, "--limit-steps", "5", "--log-every", "5")
    more = (*more, "--loader", "memory", "--precision", precision)
    assert run_train(*flags(toy, tmp_path, method, *more)) == 0
    logged = lines(tmp_path / "run")
    assert logged[-1]["step"] == 5 and math.isfinite(logged[-1]["loss"])


@pytest.mark.parametrize("method", SMALL)
def test_half_precision_trains(toy: Path, tmp_path: Path, method: str) -> None:
    more = ("--mix", MIXES[method][-1], "--limit-steps", "4", "--precision", "fp16")
    assert run_train(*flags(toy, tmp_path, method, *more)) == 0
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2, 3, 4]
    assert all(math.isfinite(line["loss"]) for line in lines(tmp_path / "run"))


@pytest.mark.parametrize("precision", ["no", "fp16"])
@pytest.mark.parametrize("method", SMALL)
def test_a_resumed_run_goes_on(toy: Path, tmp_path: Path, method: str, precision: str) -> None:
    """Kernels that add in any order leave the losses close, not equal."""
    more = ("--mix", MIXES[method][-1], "--precision", precision, "--lr", "0.005")
    straight = flags(toy, tmp_path / "a", method, *more)
    assert run_train(*straight, "--limit-steps", "4") == 0
    stopped = flags(toy, tmp_path / "b", method, *more)
    assert run_train(*stopped, "--limit-steps", "2") == 0
    assert run_train(*stopped, "--limit-steps", "4", "--resume", "auto") == 0
    a, b = (lines(tmp_path / folder / "run") for folder in "ab")
    assert [line["step"] for line in b] == [1, 2, 3, 4]
    for x, y in zip(a, b, strict=True):
        assert y["lr"] == x["lr"]
        assert y["loss"] == pytest.approx(x["loss"], rel=0.02)
