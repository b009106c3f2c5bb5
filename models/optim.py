"""Optimizers by timm's names, and the learning rate as a pure function of the step."""

from __future__ import annotations

import bisect
import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn, optim

from models.settings.base import Schedule

FUSED: tuple[type[optim.Optimizer], ...] = (optim.SGD, optim.Adam, optim.AdamW)
"""The optimizers that have a kernel for all parameters together: one launch instead of many, and
fp16's loss scaler hands it the flag of an overflow instead of reading it on the host."""


@dataclass(frozen=True)
class LrScale:
    """How a parameter's learning rate follows the learning rate of the run."""

    share: float = 1.0
    """Multiplier of the run's rate."""
    scheduled: bool = True
    """Whether it follows the schedule after the warm-up; else it stays at the peak."""


def is_norm_or_bias(name: str, parameter: nn.Parameter) -> bool:
    """Return whether a parameter is a bias or belongs to a norm layer."""
    return parameter.ndim <= 1 or name.endswith(".bias")


def create_optimizer(
    module: nn.Module,
    name: str,
    lr: float,
    weight_decay: float,
    momentum: float = 0.9,
    decay_norm_and_bias: bool = True,
    lr_scale: Callable[[str, nn.Parameter], LrScale] = lambda name, parameter: LrScale(),
    fused: bool | None = None,
) -> optim.Optimizer:
    """Return timm's optimizer ``name`` over the parameters that take a gradient.

    ``momentum`` is SGD with classical momentum (timm's ``sgd`` is Nesterov's); ``lars`` adapts the
    rates of decayed parameters only. Parameters with equal decay and ``LrScale`` form a group that
    stores ``share`` and ``scheduled``; the caller sets the groups' rates by them.

    Args:
        module: the method.
        name: a timm optimizer name: momentum, lars, adamw, ...
        lr: learning rate of the whole batch.
        weight_decay: L2 penalty; decoupled in optimizers such as AdamW.
        momentum: for optimizers that have one.
        decay_norm_and_bias: whether biases and norm layers are decayed (and adapted) as well.
        lr_scale: returns a parameter's ``LrScale``, given its name and itself.
        fused: whether one of ``FUSED`` takes its fused kernel; None: if all parameters are on CUDA.
            On the host its sums are rounded differently, so there it is off.

    Raises:
        ValueError: timm has no such optimizer.
    """
    import timm.optim

    known = timm.optim.list_optimizers()
    if name not in known:
        names = [str(one) for one in known]
        close = difflib.get_close_matches(name, names, 3) or names
        raise ValueError(
            f"--optimizer {name}: timm has no such optimizer; closest: {', '.join(close)}"
        )
    groups = _groups(module, weight_decay, decay_norm_and_bias, lr_scale)
    if fused is None:
        fused = all(p.is_cuda for group in groups for p in group["params"])
    fused = fused and timm.optim.get_optimizer_class(name, bind_defaults=False) in FUSED
    more: dict[str, Any] = {"fused": True} if fused else {}
    optimizer = timm.optim.create_optimizer_v2(
        groups, name, lr=lr, weight_decay=weight_decay, momentum=momentum, **more
    )
    optimizer.register_load_state_dict_pre_hook(_keep_kernel)
    if fused and isinstance(optimizer, optim.SGD):
        _fill_momentum(optimizer)
        optimizer.register_load_state_dict_post_hook(_fill_momentum)
    return optimizer


def _groups(
    module: nn.Module,
    weight_decay: float,
    decay_norm_and_bias: bool,
    lr_scale: Callable[[str, nn.Parameter], LrScale],
) -> list[dict[str, Any]]:
    """Return the groups of parameters that share weight decay and learning rate."""
    groups: dict[tuple[float, LrScale], list[nn.Parameter]] = {}
    for key, parameter in module.named_parameters():
        if parameter.requires_grad:
            decays = decay_norm_and_bias or not is_norm_or_bias(key, parameter)
            kind = (weight_decay if decays else 0.0, lr_scale(key, parameter))
            groups.setdefault(kind, []).append(parameter)
    return [
        {"params": members, "weight_decay": decay, **asdict(rate)}
        for (decay, rate), members in groups.items()
    ]


def _keep_kernel(optimizer: optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's state with this optimizer's choice of kernels, not the checkpoint's.

    A GPU's checkpoint goes on on the host, and one written before ``fused`` goes on with it.
    """
    groups = []
    for number, theirs in enumerate(state["param_groups"]):
        ours = optimizer.param_groups[number : number + 1]  # empty: torch refuses the state
        kept = {key: one[key] for one in ours for key in ("fused", "foreach") if key in one}
        groups.append({**theirs, **kept})
    return {**state, "param_groups": groups}


def _fill_momentum(optimizer: optim.Optimizer) -> None:
    """Give each parameter without momentum a buffer of zeros, as if it had never moved.

    Torch's fused SGD allocates its buffers in the first step, for all parameters or none, and
    leaves them uninitialized if that step overflows. From zeros the first step is the same.
    """
    for group in optimizer.param_groups:
        if group["momentum"]:
            for parameter in group["params"]:
                state = optimizer.state[parameter]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(
                        parameter, memory_format=torch.preserve_format
                    )


def layer_shares(backbone: nn.Module, decay: float) -> dict[int, float]:
    """Return the share of the run's learning rate that each parameter of a backbone has, by id.

    The head has the whole rate. The layer of the backbone that is k layers below it has
    ``decay^k``: timm's groups, with the method's head in the place of the classifier. Source: Bao
    2021, 2106.08254, as timm's ``param_groups_layer_decay``.

    Args:
        backbone: a timm model, or a module with timm's ``group_matcher``.
        decay: factor from a layer to the one below.

    Raises:
        ValueError: the module does not say which parameters make a layer.
    """
    from timm.models import _manipulate

    matcher: Any = getattr(backbone, "group_matcher", None)
    if matcher is None:
        raise ValueError(
            f"--layer-decay {decay:g}: {type(backbone).__name__} has no method group_matcher, by "
            "which timm's models name their layers"
        )
    classifier = (getattr(backbone, "pretrained_cfg", None) or {}).get("classifier") or "head"
    head = f"{classifier if isinstance(classifier, str) else classifier[0]}.weight"
    named = dict(backbone.named_parameters())
    layers = _manipulate.group_with_matcher(
        iter([*named.items(), (head, None)]), matcher(coarse=False), reverse=True
    )
    return {id(p): float(decay ** (layers[head] - layers[key])) for key, p in named.items()}


def learning_rate(
    step: int,
    total_steps: int,
    peak: float,
    final: float = 0.0,
    warmup_steps: int = 0,
    schedule: Schedule | Literal["exponential"] = "cosine",
    milestones: Sequence[int] = (),
    gamma: float = 0.1,
) -> float:
    """Return the learning rate of step ``step``, counted from 0.

    It rises linearly during ``warmup_steps``: ``peak (step + 1) / warmup_steps``. Then, with t from
    0 to 1 over the remaining steps, cosine: ``final + (peak - final) (1 + cos(pi t)) / 2``; step:
    ``peak gamma^(milestones passed)``; exponential: ``peak (final / peak)^t``; constant: ``peak``.

    Args:
        step: 0 to ``total_steps - 1``.
        total_steps: steps of the whole run.
        peak: highest learning rate.
        final: learning rate at the end of the cosine or the exponential (above 0 for the latter).
        warmup_steps: steps of the linear rise.
        schedule: cosine, step, exponential or constant.
        milestones: steps at which the rate drops, ascending.
        gamma: factor of each drop.

    >>> [learning_rate(step, 6, peak=1.0, warmup_steps=2) for step in (0, 1, 2, 4)]
    [0.5, 1.0, 1.0, 0.5]
    >>> [learning_rate(step, 6, peak=1.0, schedule="step", milestones=(2, 4)) for step in (1, 2, 3)]
    [1.0, 0.1, 0.1]
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant":
        return peak
    if schedule == "step":
        return float(peak * gamma ** bisect.bisect_right(milestones, step))
    t = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if schedule == "exponential":
        return float(peak * (final / peak) ** t)
    return final + (peak - final) * (1 + math.cos(math.pi * t)) / 2


def schedule_decay(
    groups: Sequence[dict[str, Any]], step: int, total_steps: int, first: float, last: float
) -> None:
    """Set the weight decay of a step in the groups that decay: a cosine from first to last.

    Source: Caron 2021, 2104.14294, section 3.2, where it rises.

    >>> groups = [{"weight_decay": 0.04}, {"weight_decay": 0.0}]
    >>> schedule_decay(groups, 5, 10, first=0.04, last=0.4)
    >>> [round(group["weight_decay"], 2) for group in groups]
    [0.22, 0.0]
    """
    for group in groups if first != last else ():
        if group["weight_decay"]:
            group["weight_decay"] = learning_rate(step, total_steps, first, last)


def linear_warmup(step: int, warmup_steps: int, start: float) -> float:
    """Return a factor for the learning rate: it rises from ``start`` to 1 at ``warmup_steps``."""
    done = min(step / warmup_steps, 1.0) if warmup_steps else 1.0
    return start + (1 - start) * done
