"""Optimizers by timm's names, the learning-rate schedule, and rates of single parameters."""

from __future__ import annotations

import math

import pytest
import torch
from method_cases import Case, build
from torch import nn

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
