"""Group norm's kernels without a GPU: interpreted, compiled for two GPUs, as one operation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from interpreted import compiled, passes_interpreted
from torch import Tensor, nn

from models.modules import batchnorm, batchnorm_group
from models.modules.batchnorm import BatchNorm
from pipelines.system.device_path import DevicePath


def test_equals_pytorch_in_the_interpreter() -> None:
    passes_interpreted("batchnorm_cases.py")


@pytest.mark.parametrize(
    ("capability", "values", "width", "splits", "affine"),
    [
        (80, "*bf16", 64, 32, True),
        (90, "*fp32", 64, 32, False),
    ],
)
def test_every_kernel_compiles_for_a_gpu(
    capability: int, values: str, width: int, splits: int, affine: bool,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A100 and H100, without spills; 16 bytes are read at once where channels allow it."""
    pytest.importorskip("triton")
    from models.modules import batchnorm_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    blocks = {"BLOCK_R": batchnorm_group.TILE // width, "BLOCK_C": width, "SPLITS": splits}
    nothing = {} if affine else {"weight": None, "bias": None}
    types = {
        **dict.fromkeys(("parts", "saved", "batch", "sums", "weight", "bias"), "*fp32"),
        **dict.fromkeys(("x", "y", "dx", "dy"), values),
        **dict.fromkeys(("groups", "length", "chunk", "splits", "channels"), "i32"),
        **dict.fromkeys((*blocks, *nothing), "constexpr"),
        "eps": "fp32",
    }
    for name in ("partial_moments", "normalize", "partial_sums", "input_gradient"):
        kernel = getattr(batchnorm_kernels, name)
        made = compiled(
            kernel, types, blocks | nothing, capability, batchnorm_group.OPTIONS, ("channels",)
        )
        assert ".v4.b32" in made.asm["ptx"], name


def leaves(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Values (6, 5, 4, 4) in channels_last, weight and bias."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(6, 5, 4, 4, generator=generator).to(memory_format=torch.channels_last)
    weight, bias = torch.rand(2, 5, generator=generator).unbind()
    return x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


def test_compiled_code_has_one_node_each_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer under torch.compile, with the operation's code for the host."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    graphs: list[list[str]] = []

    def keep(graph: torch.fx.GraphModule, _: object) -> Any:
        nodes = graph.graph.nodes
        graphs.append([str(n.target) for n in nodes if "group_norm" in str(n.target)])
        return make_boxed_func(graph.forward)

    x, weight, bias = leaves()
    norm = BatchNorm(5, mode="group", group_size=2)
    norm.weight, norm.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    expected = norm(x).square()
    before = torch.autograd.grad(expected.sum(), (x, norm.weight, norm.bias))
    running = norm.running_mean.clone(), norm.running_var.clone()
    norm.reset_running_stats()
    monkeypatch.setattr(DevicePath, "usable", lambda self, device: True)
    monkeypatch.setattr(batchnorm, "on_gpu", lambda x: True)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # dynamo cannot trace checks
    backend = aot_autograd(fw_compiler=keep, bw_compiler=keep)
    y = torch.compile(norm, backend=backend, fullgraph=True)(x).square()
    torch.testing.assert_close(y, expected)
    after = torch.autograd.grad(y.sum(), (x, norm.weight, norm.bias))
    for a, b in zip(
        (*after, norm.running_mean, norm.running_var), (*before, *running), strict=True
    ):
        torch.testing.assert_close(a, b)
    assert graphs == [["unmix.group_norm.default"], ["unmix.group_norm_backward.default"]]


def test_the_operation_is_well_formed() -> None:
    """Schema, fake and autograd, as torch checks them; then the gradient of its plain code."""
    x, weight, bias = leaves()
    operation = torch.ops.unmix.group_norm.default
    for given in ((weight, bias), (None, None)):
        torch.library.opcheck(
            operation, (x, *given, 3, 1e-5), test_utils=("test_schema", "test_faketensor")
        )
    y, _, batch = operation(x, weight, bias, 3, 1e-5)
    assert not batch.requires_grad
    wide = [p.detach().double().requires_grad_() for p in (x, weight, bias)]
    parts = [nn.functional.batch_norm(p, None, None, *wide[1:], True) for p in wide[0].chunk(3)]
    theirs = torch.autograd.grad(torch.cat(parts).pow(3).sum(), wide)
    for a, b in zip(torch.autograd.grad(y.pow(3).sum(), (x, weight, bias)), theirs, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4)


def test_what_the_kernels_do_not_know() -> None:
    """Layouts and types that the plain code is left with, and groups of a single value."""
    fits = batchnorm_group.fits
    last = torch.zeros(4, 6, 3, 3).to(memory_format=torch.channels_last)
    assert fits(last, 2) and fits(torch.zeros(4, 6), 2) and fits(last.bfloat16(), 4)
    assert not fits(last.contiguous(), 2) and not fits(last.double(), 2)
    assert not fits(torch.zeros(4, 6), 4) and not fits(torch.zeros(6, 4).T, 2)
    assert not fits(torch.zeros(4, 6, 3), 2) and not fits(torch.zeros(0, 6), 1)
    with pytest.raises(ValueError, match=r"2 groups of .*strides"):
        batchnorm_group.traffic(last.contiguous(), 2)
