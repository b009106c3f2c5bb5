"""Sync norm by PyTorch's CUDA kernels, with stand-ins for them (on a GPU: test_gpu.py)."""

from __future__ import annotations

import pytest
import sync_kernels
import torch
from torch import Tensor, nn

from models import distributed
from models.modules import batchnorm
from models.modules.batchnorm import BatchNorm
from models.modules.batchnorm_sync import SYNC_NORM, NativeSyncNorm, SyncNorm, TwoRanks, fits
from pipelines.system.device_path import DevicePath


class Recorded(TwoRanks):
    """Two ranks, and what they exchange."""

    def __init__(self) -> None:
        super().__init__(apart=2.0)
        self.sent: list[tuple[int, ...]] = []

    def gather(self, x: Tensor) -> Tensor:
        self.sent.append(tuple(x.shape))
        return super().gather(x)

    def all_reduce_sum(self, x: Tensor) -> Tensor:
        self.sent.append(tuple(x.shape))
        return super().all_reduce_sum(x)


def case(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values, gradient of the result, weight and bias."""
    generator = torch.Generator().manual_seed(1)
    x, dy = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    if len(shape) == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    weight, bias = torch.rand(2, shape[1], generator=generator).unbind()
    return x.requires_grad_(), dy, weight.requires_grad_(), bias.requires_grad_()


@pytest.mark.parametrize("affine", ["both", "weight", "none"])
@pytest.mark.parametrize("shape", [(6, 5), (4, 5, 3, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_the_plain_code(
    shape: tuple[int, ...], dtype: torch.dtype, affine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Result, statistics and gradients; one exchange each way, of (2, c) numbers a rank."""
    calls, ranks = sync_kernels.install(monkeypatch), Recorded()
    x, dy, weight, bias = case(shape, dtype)
    wanted = {"both": [x, weight, bias], "weight": [x, weight], "none": [x]}[affine]
    given = (weight if affine != "none" else None, bias if affine == "both" else None)
    running = torch.zeros(5), torch.ones(5)
    y = NativeSyncNorm.apply(x, *given, running, 0.1, 1e-5, ranks)
    ours = torch.autograd.grad(y, wanted, dy)
    assert ranks.sent == [(1, 2, 5), (2, 5)]
    assert calls == list(sync_kernels.KERNELS) and y.dtype == x.dtype and y.stride() == x.stride()
    full = [torch.ones(5) if affine == "none" else weight, bias if affine == "both" else 0 * bias]
    plain, mean, var = SyncNorm.apply(x, *full, 1e-5, ranks)
    close = {"rtol": 0.01 if dtype == torch.bfloat16 else 1e-4, "atol": 1e-5}
    torch.testing.assert_close(y, plain, **close)
    for a, b in zip(ours, torch.autograd.grad(plain, wanted, dy), strict=True):
        torch.testing.assert_close(a, b, **close)
    count = 2 * x.numel() // 5
    torch.testing.assert_close(running[0], 0.1 * mean)
    torch.testing.assert_close(running[1], 0.9 + 0.1 * var * count / (count - 1))


def test_equals_one_process_with_the_rows_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float64's gradient of the joint batch, whose halves are equal."""
    sync_kernels.install(monkeypatch)
    x, dy, weight, bias = case((4, 5, 3, 3), torch.float32)
    y = NativeSyncNorm.apply(
        x, weight, bias, (torch.zeros(5), torch.ones(5)), 0.1, 1e-5, TwoRanks(0.0)
    )
    ours = torch.autograd.grad(y, (x, weight, bias), dy)
    wide = [p.detach().double().requires_grad_() for p in (x, weight, bias)]
    joint = nn.functional.batch_norm(
        torch.cat([wide[0], wide[0].detach()]), None, None, *wide[1:], True
    )
    torch.testing.assert_close(y.double(), joint[:4], rtol=1e-4, atol=1e-5)
    both = torch.autograd.grad(joint, wide, torch.cat([dy, dy]).double())
    torch.testing.assert_close(ours[0].double(), both[0], rtol=1e-4, atol=1e-5)
    for a, b in zip(ours[1:], both[1:], strict=True):  # this rank's share of the sum
        torch.testing.assert_close(2 * a.double(), b, rtol=1e-4, atol=1e-5)


def test_the_layer_takes_it_when_ranks_share(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, two = sync_kernels.install(monkeypatch), TwoRanks()
    norm, x = BatchNorm(5, mode="sync", group_size=2), torch.randn(4, 5)
    assert norm.device_path is None  # alone, PyTorch's own batch norm does it
    monkeypatch.setattr(batchnorm, "on_gpu", lambda x: True)
    monkeypatch.setattr(DevicePath, "usable", lambda self, device: self is SYNC_NORM)
    for name in ("world_size", "gather", "all_reduce_sum"):
        monkeypatch.setattr(distributed, name, getattr(two, name))
    assert norm.device_path is SYNC_NORM
    norm(x).sum().backward()
    assert calls == list(sync_kernels.KERNELS)
    torch.testing.assert_close(norm.running_mean, 0.1 * x.mean(0))
    calls.clear()
    norm.double()(x.double())  # float64 is left to the plain code
    monkeypatch.setattr(DevicePath, "usable", lambda self, device: False)
    norm.float()(x)
    assert not calls


def test_the_self_check_sees_right_and_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    host = torch.device("cpu")
    missing = SYNC_NORM.compare(host)  # the host has no such kernels
    assert not missing.used and "NotImplementedError" in missing.reason
    sync_kernels.install(monkeypatch)
    right = SYNC_NORM.compare(host)
    assert right.used and right.difference is not None and right.difference < 1e-4
    monkeypatch.setattr(
        torch, "batch_norm_backward_elemt", lambda *a: 1.01 * sync_kernels.backward_elemt(*a)
    )
    assert not SYNC_NORM.compare(host).used


def test_what_the_kernels_do_not_know() -> None:
    x = torch.zeros(4, 6, 3, 3)
    assert fits(x) and fits(x.to(memory_format=torch.channels_last)) and fits(x[:, :, 0, 0].clone())
    assert not fits(x.double()) and not fits(x[:, ::2]) and not fits(x[:0])
