"""Group norm by Triton and sync norm by PyTorch's kernels on a GPU, against float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.modules import batchnorm_group
from models.modules.batchnorm import BatchNorm
from models.modules.batchnorm_group import GROUP_NORM, group_norm
from models.modules.batchnorm_sync import SYNC_NORM, NativeSyncNorm, TwoRanks
from pipelines.system import device_path

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda", 0)
SHAPES = [(32, 64, 56, 56), (16, 17, 9, 7), (64, 2048), (24, 3, 5, 5), (8, 256, 1, 1)]


def case(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """Values, weight and bias, and the gradient of the result."""
    generator = torch.Generator(CUDA).manual_seed(0)
    x, dy = (torch.randn(shape, generator=generator, device=CUDA) for _ in range(2))
    x = (2 * x + 5).to(dtype)
    if x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    weight, bias = torch.rand(2, shape[1], generator=generator, device=CUDA).unbind()
    return [p.requires_grad_() for p in (x, weight, bias)], dy.to(dtype)


def agrees(run: Callable[..., Tensor], leaves: list[Tensor], dy: Tensor, groups: int) -> Tensor:
    """Compare result and gradients with batch norm in float64; return the result."""
    y = run(*leaves)
    wide = [p.detach().double().requires_grad_() for p in leaves]
    parts = wide[0].chunk(groups)
    expected = torch.cat([F.batch_norm(p, None, None, *wide[1:], True) for p in parts])
    close = (
        {"rtol": 0.01, "atol": 0.02} if y.dtype != torch.float32 else {"rtol": 1e-4, "atol": 1e-4}
    )
    torch.testing.assert_close(y.double(), expected, **close)
    theirs = torch.autograd.grad(expected, wide, dy.double())
    for a, b in zip(torch.autograd.grad(y, leaves, dy), theirs, strict=True):
        scale = float(b.abs().max()) + 1e-6  # sums over all pixels are large
        torch.testing.assert_close(a.double() / scale, b / scale, **close)
    return y


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_groups(shape: tuple[int, ...], groups: int, dtype: torch.dtype) -> None:
    """Also the same bits in every run, and the running statistics of the layer."""
    pytest.importorskip("triton")
    leaves, dy = case(shape, dtype)
    if not batchnorm_group.fits(leaves[0], groups):
        pytest.skip("groups of one value")
    y = agrees(lambda *p: group_norm(*p, groups, 1e-5)[0], leaves, dy, groups)
    assert y.equal(group_norm(*leaves, groups, 1e-5)[0])
    found = []
    for mode in ("fused", "plain"):
        norm = BatchNorm(shape[1], mode="group", group_size=shape[0] // groups).to(CUDA)
        with device_path.only(mode, [GROUP_NORM]):
            norm(leaves[0])
        found.append((norm.running_mean, norm.running_var))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_two_ranks_with_the_same_rows(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """The statistics are then those of one, and so is the gradient."""
    leaves, dy = case(shape, dtype)

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        running = torch.zeros_like(bias), torch.ones_like(bias)
        return NativeSyncNorm.apply(x, weight, bias, running, 0.1, 1e-5, TwoRanks())

    agrees(run, leaves, dy, 1)


def test_both_prove_themselves() -> None:
    for path in (GROUP_NORM, SYNC_NORM):
        verdict = path.compare(CUDA)
        assert verdict.used, verdict


def test_the_host_never_waits() -> None:
    pytest.importorskip("triton")
    leaves, dy = case(SHAPES[0], torch.bfloat16)
    norm = BatchNorm(64, mode="group", group_size=4).to(CUDA)
    torch.autograd.grad(norm(leaves[0]), leaves[0], dy)  # compiles and proves itself
    running = torch.zeros(64, device=CUDA), torch.ones(64, device=CUDA)
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.autograd.grad(norm(leaves[0]), leaves[0], dy)
        y = NativeSyncNorm.apply(*leaves, running, 0.1, 1e-5, TwoRanks())
        torch.autograd.grad(y, leaves, dy)
    finally:
        torch.cuda.set_sync_debug_mode("default")
