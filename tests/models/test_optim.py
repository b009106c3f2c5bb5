"""Optimizers by timm's names, the learning-rate schedule, and rates of single parameters."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from method_cases import Case, build
from runs import reset_accelerate
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from models.methods import METHODS
from models.modules import heads
from models.optim import LrScale, create_optimizer, learning_rate


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.bn = nn.BatchNorm1d(4)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def test_cosine_with_warmup() -> None:
    rates = [learning_rate(s, 110, 2.0, 0.5, warmup_steps=10) for s in range(110)]
    assert rates[:10] == pytest.approx([0.2 * (s + 1) for s in range(10)])
    assert rates[10] == pytest.approx(2.0)
    assert rates[60] == pytest.approx(1.25)
    assert rates[85] == pytest.approx(0.5 + 1.5 * (1 + math.cos(math.pi * 0.75)) / 2)
    assert rates[-1] == pytest.approx(0.5, abs=1e-3)


def test_steps_and_constant() -> None:
    rates = [
        learning_rate(s, 10, 1.0, schedule="step", milestones=(3, 7), gamma=0.2) for s in range(10)
    ]
    assert rates == pytest.approx([1] * 3 + [0.2] * 4 + [0.04] * 3)
    assert learning_rate(9, 10, 0.3, schedule="constant") == 0.3


def test_momentum_is_not_nesterov() -> None:
    optimizer = create_optimizer(Net(), "momentum", 0.1, 1e-4, 0.9)
    assert isinstance(optimizer, torch.optim.SGD)
    assert not any(g["nesterov"] for g in optimizer.param_groups)
    assert {g["momentum"] for g in optimizer.param_groups} == {0.9}


@pytest.mark.parametrize("name", ["momentum", "lars", "adamw"])
def test_decay_groups(name: str) -> None:
    def decays(everywhere: bool) -> dict[int, float]:
        optimizer = create_optimizer(net, name, 0.1, 0.5, 0.9, decay_norm_and_bias=everywhere)
        return {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}

    net = Net()
    trained = [net.fc.weight, net.fc.bias, net.bn.weight, net.bn.bias]
    assert decays(True) == {id(p): 0.5 for p in trained}
    assert decays(False) == {id(p): 0.5 * (p is net.fc.weight) for p in trained}


def test_a_norm_without_bias_is_a_norm() -> None:
    head = heads.mlp(3, 4, 2, norm=True, last_norm=True, last_bias=False)
    optimizer = create_optimizer(head, "lars", 0.1, 0.5, 0.9, decay_norm_and_bias=False)
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    expected = {name: 0.5 * name.startswith(("0", "3")) for name, _ in head.named_parameters()}
    assert {name: decays[id(p)] for name, p in head.named_parameters()} == expected
    assert list(expected) == ["0.weight", "1.weight", "1.bias", "3.weight", "4.weight"]


def test_lars_follows_the_formula() -> None:
    """g <- 0.001 |p| / (|g| + wd |p| + 1e-8) (g + wd p), then SGD: spec 3.2."""
    net = nn.Linear(3, 2, bias=False).double()
    optimizer = create_optimizer(net, "lars", 0.5, 0.1, 0.9)
    p = net.weight.detach().clone()
    g = torch.randn_like(p)
    net.weight.grad = g.clone()
    optimizer.step()
    trust = 0.001 * p.norm() / (g.norm() + 0.1 * p.norm() + 1e-8)
    torch.testing.assert_close(net.weight.detach(), p - 0.5 * trust * (g + 0.1 * p))


def test_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="--optimizer sdg"):
        create_optimizer(Net(), "sdg", 0.1, 0.0)


@pytest.mark.parametrize("name", METHODS)
def test_defaults_build(name: str) -> None:
    d = METHODS[name].settings.defaults
    optimizer = create_optimizer(
        Net(), d.optimizer, d.lr_per_256, d.weight_decay, d.momentum, d.decay_norm_and_bias
    )
    assert not any(g.get("nesterov") or g.get("trust_clip") for g in optimizer.param_groups)


def test_rates_of_parameters() -> None:
    """SimSiam's predictor keeps its rate; Barlow's biases and batch norm have a smaller one."""

    def groups(name: str, **options: bool) -> dict[str, LrScale]:
        method = build(Case(name, tuple(options.items())))
        optimizer = create_optimizer(method, "lars", 0.1, 1e-4, lr_scale=method.lr_scale)
        names = {id(p): key for key, p in method.named_parameters()}
        return {
            names[id(p)]: LrScale(group["share"], group["scheduled"])
            for group in optimizer.param_groups
            for p in group["params"]
        }

    simsiam = groups("simsiam")
    assert all(r.scheduled != key.startswith("predictor.") for key, r in simsiam.items())
    assert all(r.scheduled for r in groups("simsiam", constant_predictor_lr=False).values())
    shares = groups("barlow")
    assert shares["backbone.layers.0.weight"].share == shares["head.0.weight"].share == 1
    assert shares["backbone.layers.1.weight"].share == shares["head.1.bias"].share == 0.0015
    assert set(groups("vicreg").values()) == {LrScale()}


STEPS = (math.inf, 1.0, -2.0, math.inf, 0.5)
"""The gradient of each step; where it is infinite, fp16's loss has overflowed."""


def pair(name: str, **options: bool) -> tuple[nn.Linear, torch.optim.Optimizer]:
    net = nn.Linear(3, 2)
    with torch.no_grad():
        for number, parameter in enumerate(net.parameters()):
            parameter.fill_(1 + number)
    return net, create_optimizer(net, name, 0.1, 0.01, 0.9, **options)


def train(net: nn.Linear, step: Callable[[], object], scale: Callable[[], float]) -> None:
    for gradient in STEPS:
        for parameter in net.parameters():
            parameter.grad = torch.full_like(parameter, gradient * scale())
        step()


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("name", ["momentum", "adam", "adamw"])
def test_a_fused_step_leaves_out_an_overflow_and_is_not_waited_for(
    name: str, clipped: bool
) -> None:
    """Also the first step's, of which torch's fused SGD keeps memory that nobody has written."""
    nets = []
    for fused in (False, True):
        reset_accelerate()
        net, inner = pair(name, fused=fused)
        Accelerator(cpu=True)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        scaler.scale(torch.ones(()))  # which makes its tensors
        optimizer = AcceleratedOptimizer(inner, device_placement=False, scaler=scaler)
        seen: list[str] = []

        def step(
            inner: torch.optim.Optimizer = inner,
            optimizer: AcceleratedOptimizer = optimizer,
            scaler: torch.amp.GradScaler = scaler,
            seen: list[str] = seen,
        ) -> None:
            if clipped:
                scaler.unscale_(inner)  # as engine.clip does, in every step
            with Reads(seen):
                optimizer.step()

        train(net, step, scaler.get_scale)
        assert bool(seen) != fused
        assert scaler.get_scale() == 1.0
        nets.append(net)
    plain, of_finite = pair(name, fused=False)
    for gradient in STEPS:
        if math.isfinite(gradient):
            for parameter in plain.parameters():
                parameter.grad = torch.full_like(parameter, gradient)
            of_finite.step()
    for net in nets:
        for ours, expected in zip(net.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0)


class Reads(TorchDispatchMode):
    """Notes when the host reads a value."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "_local_scalar_dense" in func.name():
            self.seen.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_a_checkpoint_goes_on_with_the_kernels_of_this_device(name: str, before: bool) -> None:
    """Written with fused kernels and read without, or the other way; a bias has never moved."""
    torch.manual_seed(0)
    net, written = pair(name, fused=before)
    net.weight.grad = torch.randn_like(net.weight)
    written.step()
    other, read = pair(name, fused=not before)
    other.load_state_dict(net.state_dict())
    state = copy.deepcopy(written.state_dict())
    for group in state["param_groups"]:
        group.pop("fused", None)  # written before unmix asked for it
    read.load_state_dict(state)
    assert all(bool(group.get("fused")) != before for group in read.param_groups)
    for one in (net, other):
        torch.manual_seed(1)
        for parameter in one.parameters():
            parameter.grad = torch.randn_like(parameter)
    written.step()
    read.step()
    for ours, theirs in zip(other.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_only_a_device_is_given_fused_kernels_and_only_where_torch_has_them() -> None:
    assert not any(group["fused"] for group in pair("momentum")[1].param_groups)
    assert "fused" not in pair("lars", fused=True)[1].param_groups[0]
    with torch.device("meta"):
        assert not any(g["fused"] for g in create_optimizer(Net(), "adamw", 0.1, 0.0).param_groups)
