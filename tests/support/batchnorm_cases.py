"""Group norm by Triton against PyTorch, run by test_batchnorm_group.py in Triton's interpreter.

It needs ``TRITON_INTERPRET=1`` before Triton is imported:
``TRITON_INTERPRET=1 pytest tests/support/batchnorm_cases.py``.
"""

import os
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from triton.runtime.interpreter import InterpreterBuilder

from models.modules import batchnorm, batchnorm_group
from models.modules.batchnorm import BatchNorm, replay_running_stats
from models.modules.batchnorm_group import GROUP_NORM, group_norm
from pipelines.system import device_path

assert os.environ.get("TRITON_INTERPRET") == "1", "kernels would be compiled for a GPU"


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles a chunk, several chunks a group, several programs for the channels."""
    monkeypatch.setattr(batchnorm_group, "TILE", 64)
    monkeypatch.setattr(batchnorm_group, "WIDTH", 4)
    monkeypatch.setattr(batchnorm_group, "MOST_SPLITS", 3)


def image(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, mean: float = 5.0) -> Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    x = (torch.randn(shape, generator=generator) * 2 + mean).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def parameters(channels: int, kind: str) -> tuple[Tensor | None, Tensor | None]:
    weight = torch.linspace(-1, 2, channels).requires_grad_()
    bias = torch.linspace(0, 1, channels).requires_grad_()
    return (weight if kind != "none" else None), (bias if kind == "both" else None)


def per_group(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, dtype: torch.dtype
) -> Tensor:
    """A loop over the groups in float64 or in ``x``'s type; gradients reach the arguments."""
    wide = [None if p is None else p.to(dtype) for p in (weight, bias)]
    ys = [
        torch.nn.functional.batch_norm(part, None, None, *wide, True, 0.1, 1e-5)
        for part in x.to(dtype).chunk(groups)
    ]
    return torch.cat(ys)


CASES = [
    ((4, 3, 5, 7), 1, "both"),  # channels fewer than a tile, not a power of two
    ((4, 5, 7, 5), 2, "both"),  # two tiles of channels, the second of one; three chunks
    ((4, 3, 5, 3), 2, "weight"),
    ((4, 3, 5, 3), 2, "none"),
    ((9, 6), 3, "both"),  # a head
    ((4, 4, 9, 7), 4, "both"),  # two chunks of two tiles, the second shorter
    ((24, 4, 3, 1), 8, "both"),
    ((4, 1, 6, 6), 2, "both"),
]


@pytest.mark.parametrize(("shape", "groups", "kind"), CASES, ids=str)
def test_equals_float64(shape: tuple[int, ...], groups: int, kind: str) -> None:
    """Result, gradients and statistics, each against a loop over the groups in float64."""
    x, dy = image(shape).requires_grad_(), image(shape, mean=0.5)
    weight, bias = parameters(shape[1], kind)
    leaves = [leaf for leaf in (x, weight, bias) if leaf is not None]
    y, batch = group_norm(x, weight, bias, groups, 1e-5)
    assert y.stride() == x.stride() and not batch.requires_grad
    expected = per_group(x, weight, bias, groups, torch.float64)
    torch.testing.assert_close(y, expected.float(), rtol=0, atol=1e-5)
    theirs = torch.autograd.grad(expected, leaves, dy.double())
    for a, b in zip(torch.autograd.grad(y, leaves, dy), theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    parts = [part.double().transpose(0, 1).flatten(1) for part in x.detach().chunk(groups)]
    mean, var = torch.stack([p.mean(1) for p in parts]), torch.stack([p.var(1) for p in parts])
    torch.testing.assert_close(batch[0].double(), mean.mean(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(batch[1].double(), var.mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_once(dtype: torch.dtype) -> None:
    """The statistics are those of float32, also of values far from 0; results are rounded."""
    shape = (4, 3, 5, 3)
    x, dy = image(shape, dtype, mean=60.0).requires_grad_(), image(shape, dtype, mean=0.0)
    weight, bias = parameters(3, "both")
    y, batch = group_norm(x, weight, bias, 2, 1e-5)
    expected = per_group(x.detach().requires_grad_(), weight, bias, 2, torch.float64)
    assert y.dtype == dtype and batch.dtype == torch.float32
    # The interpreter cuts bfloat16 off, a GPU rounds it.
    one = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-11}[dtype]
    torch.testing.assert_close(y.double(), expected, rtol=one, atol=1e-4)
    theirs = torch.autograd.grad(
        per_group(x, weight, bias, 2, torch.float64), (x, weight, bias), dy.double()
    )
    ours = torch.autograd.grad(y, (x, weight, bias), dy)
    torch.testing.assert_close(ours[0], theirs[0], rtol=2 * one, atol=1e-4)
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_variance_of_values_far_from_zero() -> None:
    """A sum of squares in float32 would lose it: mean 1000, standard deviation 0.1."""
    x = image((4, 4, 6, 6)) / 20 + 1000
    _, batch = group_norm(x, None, None, 2, 1e-5)
    parts = [part.double().transpose(0, 1).flatten(1) for part in x.chunk(2)]
    var = torch.stack([p.var(1) for p in parts]).mean(0)
    torch.testing.assert_close(batch[1].double(), var, rtol=5e-4, atol=0)


def test_a_gradient_of_another_layout() -> None:
    """After a mean over pixels it is expanded, so all its pixels share memory."""
    x = image((4, 4, 2, 2)).requires_grad_()
    (ours,) = torch.autograd.grad(
        group_norm(x, None, None, 2, 1e-5)[0].pow(3).mean((2, 3)).sum(), x
    )
    (same,) = torch.autograd.grad(
        group_norm(x, None, None, 2, 1e-5)[0].mean((2, 3)).square().sum(), x
    )
    y = per_group(x, None, None, 2, torch.float64)
    torch.testing.assert_close(
        ours, torch.autograd.grad(y.pow(3).mean((2, 3)).sum(), x)[0], rtol=1e-4, atol=1e-5
    )
    y = per_group(x, None, None, 2, torch.float64)
    torch.testing.assert_close(
        same, torch.autograd.grad(y.mean((2, 3)).square().sum(), x)[0], rtol=1e-4, atol=1e-6
    )


def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the layer believe that its tensors are on a GPU."""
    monkeypatch.setattr(batchnorm, "on_gpu", lambda x: True)


@pytest.mark.parametrize("grad", [False, True])
def test_the_layer_takes_it(grad: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Result and running statistics are those of the plain layer, replayed twice as well."""
    batches = [image((6, 4, 2, 2)), image((6, 4, 2, 2), mean=2.0)]
    found = []
    for fused in (False, True):
        norm = BatchNorm(4, mode="group", group_size=2)
        with torch.set_grad_enabled(grad), monkeypatch.context() as patch:
            if fused:
                on_a_gpu(patch)
                patch.setattr(BatchNorm, "_plain", None)  # would be called by the plain code
                patch.setattr(batchnorm_group, "proved", lambda device: True)
            ys = []
            for number, x in enumerate(batches):
                with replay_running_stats(norm, (0, 1, 1), number):
                    ys.append(norm(x))
        assert ys[0].requires_grad == grad
        found.append([*ys, norm.running_mean, norm.running_var])
        assert norm.num_batches_tracked == 2
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_the_self_check_sees_right_and_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # to the tiles of a GPU
    host = torch.device("cpu")
    right = GROUP_NORM.compare(host)
    assert right.used and right.difference is not None and right.difference < 1e-4

    def wrong(x: Tensor, w: Any, b: Any, groups: int, eps: float) -> Any:
        return batchnorm_group.plain_forward(x, w, b, groups, eps + 0.1)

    monkeypatch.setattr(batchnorm_group, "forward", wrong)
    monkeypatch.setattr(batchnorm_group, "backward", batchnorm_group.plain_backward)
    assert not GROUP_NORM.compare(host).used
    with device_path.only("auto", [GROUP_NORM]), monkeypatch.context() as patch:
        on_a_gpu(patch)
        patch.setattr(batchnorm_group, "group_norm", None)  # must not be called
        norm = BatchNorm(5, mode="group", group_size=2)
        assert norm(image((6, 5, 3, 3))).shape == (6, 5, 3, 3)


def elements(run: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Bytes of the elements that the loads and the stores of ``run`` do not mask out."""
    moved = {"load": 0, "store": 0}
    with monkeypatch.context() as patch:
        for kind in moved:
            original = getattr(InterpreterBuilder, f"create_masked_{kind}")

            def counted(
                self: Any, ptrs: Any, *rest: Any, kind: str = kind, original: Any = original
            ) -> Any:
                mask = next(r for r in rest if getattr(r, "data", np.empty(0)).dtype == bool)
                size = ptrs.get_element_ty().primitive_bitwidth // 8
                moved[kind] += int(mask.data.sum()) * size
                return original(self, ptrs, *rest)

            patch.setattr(InterpreterBuilder, f"create_masked_{kind}", counted)
        run()
    return moved


def test_bytes_moved_are_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward: x read twice, y written once. Backward: x and dy read twice, dx written once."""
    monkeypatch.setattr(batchnorm_group, "TILE", 1024)
    monkeypatch.setattr(batchnorm_group, "WIDTH", 16)
    x = image((8, 16, 12, 12), torch.bfloat16)
    weight, bias = parameters(16, "both")
    y, saved, _ = batchnorm_group.forward(x, weight, bias, 2, 1e-5)
    forward = lambda: batchnorm_group.forward(x, weight, bias, 2, 1e-5)  # noqa: E731
    backward = lambda: batchnorm_group.backward(y, x, saved, weight)  # noqa: E731
    least = {("forward", "load"): 2, ("forward", "store"): 1}
    least |= {("backward", "load"): 4, ("backward", "store"): 1}
    total = 0
    moved = {name: elements(run, monkeypatch)
             for name, run in (("forward", forward), ("backward", backward))}  # fmt: skip
    for (name, what), times in least.items():
        bytes_moved = moved[name][what]
        total += bytes_moved
        assert times <= bytes_moved / x.nbytes < times + 0.3, (name, what)  # and the statistics
    assert total >= batchnorm_group.traffic(x, 2) > 8 * x.nbytes
    assert total < 1.05 * batchnorm_group.traffic(x, 2)  # cached statistics are read repeatedly
