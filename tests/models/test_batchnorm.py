"""Split and synchronized batch norm (two processes: test_distributed.py)."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import Tensor, nn

from models.modules import heads
from models.modules.batchnorm import BatchNorm, convert_batchnorm, replay_running_stats
from models.modules.batchnorm_sync import SyncNorm
from models.settings.base import BnMode


def image(n: int = 12, c: int = 3, size: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, c, size, size, generator=generator, dtype=torch.float64) * 2 + 5


@pytest.mark.parametrize("shape", [(12, 3), (12, 3, 4, 4)])
def test_groups_equal_a_loop(shape: tuple[int, ...]) -> None:
    x = image().mean((2, 3)) if len(shape) == 2 else image()
    norm = BatchNorm(3, mode="group", group_size=4).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, -1.0]))
        norm.bias.copy_(torch.tensor([0.0, 1.0, 2.0]))
    y = norm(x)
    dims = [0, *range(2, x.ndim)]
    means, variances = [], []
    for i in range(0, 12, 4):
        group = x[i : i + 4]
        for c in range(3):
            values = group[:, c].flatten()
            normed = (group[:, c] - values.mean()) / (values.var(correction=0) + 1e-5).sqrt()
            expected = normed * norm.weight[c] + norm.bias[c]
            torch.testing.assert_close(y[i : i + 4, c], expected, rtol=0, atol=1e-10)
        means.append(group.mean(dims))
        variances.append(group.transpose(0, 1).flatten(1).var(1))
    torch.testing.assert_close(norm.running_mean, 0.1 * torch.stack(means).mean(0))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * torch.stack(variances).mean(0))
    assert norm.num_batches_tracked == 1
    norm.eval()
    plain = nn.BatchNorm2d(3).double()
    plain.load_state_dict(norm.state_dict())
    if x.ndim == 4:
        assert norm(x).equal(plain.eval()(x))


def test_one_group_is_ordinary_batch_norm() -> None:
    x = image()
    plain = nn.BatchNorm2d(3).double()
    for norm in (
        BatchNorm(3, mode="group", group_size=12).double(),
        BatchNorm(3, mode="sync", group_size=4).double(),
    ):
        assert norm(x).equal(copy.deepcopy(plain)(x))


def test_sync_kernel_has_the_fused_kernels_gradients() -> None:
    x, weight = image().requires_grad_(), torch.rand(3, dtype=torch.float64, requires_grad=True)
    bias = torch.rand(3, dtype=torch.float64, requires_grad=True)
    target = torch.randn(12, 3, 4, 4, dtype=torch.float64)
    fused = nn.functional.batch_norm(x, None, None, weight, bias, True, 0.1, 1e-5)
    expected = torch.autograd.grad((fused * target).sum(), (x, weight, bias))
    ours, _, _ = SyncNorm.apply(x, weight, bias, 1e-5)
    actual = torch.autograd.grad((ours * target).sum(), (x, weight, bias))
    torch.testing.assert_close(ours, fused, rtol=0, atol=1e-12)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_half_precision_input_keeps_fp32_statistics() -> None:
    x = (image() + 200).bfloat16()
    for norm in (BatchNorm(3, mode="group", group_size=4), BatchNorm(3, mode="sync", group_size=4)):
        y = norm(x)
        assert y.dtype == torch.bfloat16
        assert norm.running_mean is not None and norm.running_mean.dtype == torch.float32
        torch.testing.assert_close(
            norm.running_mean, 0.1 * x.float().mean((0, 2, 3)), rtol=1e-5, atol=1e-5
        )
    y, mean, _ = SyncNorm.apply(x, torch.ones(3), torch.zeros(3), 1e-5)
    assert (y.dtype, mean.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("mode", ["group", "sync"])
@pytest.mark.parametrize("group_size", [4, 12])
@pytest.mark.parametrize("momentum", [0.1, 0.03])
def test_a_forward_that_counts_twice_is_made_once(
    mode: BnMode, group_size: int, momentum: float
) -> None:
    """Four forwards of three batches: a loop over them, in float64, and three forwards."""
    batches = [image() * (i + 1) + i for i in range(3)]
    norm = BatchNorm(3, momentum=momentum, mode=mode, group_size=group_size).double()
    mean, var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    size = group_size if mode == "group" else 12
    for _ in range(3):
        for number in (0, 2, 1, 2):
            parts = [part.transpose(0, 1).flatten(1) for part in batches[number].split(size)]
            means, variances = ([getattr(p, f)(1) for p in parts] for f in ("mean", "var"))
            mean = (1 - momentum) * mean + momentum * torch.stack(means).mean(0)
            var = (1 - momentum) * var + momentum * torch.stack(variances).mean(0)
        for number, x in enumerate(batches):
            plain = copy.deepcopy(norm)(x)
            with replay_running_stats(norm, (0, 2, 1, 2), number):
                assert norm(x).equal(plain)
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(norm.running_var, var, rtol=1e-12, atol=1e-12)


def test_evaluation_inside_tracking_moves_nothing() -> None:
    norm = BatchNorm(3, mode="group", group_size=4).double().eval()
    before = copy.deepcopy(norm.state_dict())
    with replay_running_stats(norm, (0, 1, 1), 1):
        norm(image())
    assert all(before[name].equal(value) for name, value in norm.state_dict().items())


def test_broken_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="--groups"):
        BatchNorm(3, mode="group", group_size=5)(image().float())


@pytest.mark.parametrize("name", ["resnet10t", "resnetv2_18", "efficientnet_b0"])
def test_convert_keeps_the_network(name: str) -> None:
    model = timm.create_model(name, num_classes=0)
    state = copy.deepcopy(model.state_dict())
    x = torch.randn(4, 3, 64, 64)
    expected = copy.deepcopy(model).eval()(x)
    parameters = [id(p) for p in model.parameters()]
    converted = convert_batchnorm(model, "group", 2)
    assert not [m for m in converted.modules() if type(m) is nn.BatchNorm2d]
    assert any(isinstance(m, BatchNorm) for m in converted.modules())
    assert [id(p) for p in converted.parameters()] == parameters
    assert list(converted.state_dict()) == list(state)
    timm.create_model(name, num_classes=0).load_state_dict(converted.state_dict())
    torch.testing.assert_close(converted.eval()(x), expected)
    converted.train()
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(converted(last).shape, expected.shape)


def scale_only() -> nn.Sequential:
    """A head like SimCLR's: its last norm has weights and no bias."""
    torch.manual_seed(0)
    head = heads.mlp(5, 6, 3, norm=True, last_norm=True, last_bias=False).double()
    with torch.no_grad():
        head[-1].weight.copy_(torch.tensor([1.0, 2.0, -1.0]))
    return head


@pytest.mark.parametrize(("mode", "size"), [("group", 4), ("group", 12), ("sync", 4)])
def test_a_norm_without_bias(mode: BnMode, size: int) -> None:
    """Values, gradients and evaluation are those of a norm whose bias is 0 and stays there."""
    plain = scale_only()
    full = heads.mlp(5, 6, 3, norm=True, last_norm=True).double()
    full.load_state_dict(plain.state_dict() | dict.fromkeys(("3.bias", "4.bias"), torch.zeros(3)))
    names = [name for name, _ in plain.named_parameters()]
    state = list(plain.state_dict())
    assert "4.weight" in names and "4.bias" not in names and "3.bias" not in names
    convert_batchnorm(plain, mode, size)
    convert_batchnorm(full, mode, size)
    assert isinstance(plain[-1], BatchNorm) and plain[-1].bias is None
    assert [name for name, _ in plain.named_parameters()] == names
    assert list(plain.state_dict()) == state
    x = torch.randn(12, 5, dtype=torch.float64)
    for head in (plain, full):
        head(x).pow(3).sum().backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(parameter.grad, full.get_parameter(name).grad)
    torch.testing.assert_close(plain(x), full(x))
    torch.testing.assert_close(plain.eval()(x), full.eval()(x))
    torch.testing.assert_close(copy.deepcopy(plain)(x), plain(x))


def test_the_sync_kernel_without_bias() -> None:
    """What several processes call; two of them: test_distributed.py."""
    x, weight = image().requires_grad_(), torch.rand(3, dtype=torch.float64, requires_grad=True)
    target = torch.randn(12, 3, 4, 4, dtype=torch.float64)
    fused = nn.functional.batch_norm(x, None, None, weight, None, True, 0.1, 1e-5)
    expected = torch.autograd.grad((fused * target).sum(), (x, weight))
    ours, _, _ = SyncNorm.apply(x, weight, x.new_zeros(3), 1e-5)
    actual = torch.autograd.grad((ours * target).sum(), (x, weight))
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)
