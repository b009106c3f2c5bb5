"""Load weights into a backbone, and say what was loaded and what was not."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from models.modules.own_modules import OwnBackbone

FILTERS = ("checkpoint_filter_fn", "pretrained_filter_fn", "_filter_fn")
"""timm's names of the function that fits a family's released weights to a model."""
LITTLE = 0.9
"""Share of a backbone's tensors that must be found."""
COUNTER = "num_batches_tracked"
"""A batch norm's counter of steps, which old files lack and no report mentions."""


@dataclass(frozen=True)
class Loaded:
    """What became of the tensors of a file."""

    count: int
    """Number of the backbone's tensors that were loaded."""
    total: int
    """Number of the backbone's tensors."""
    new: tuple[str, ...]
    """The backbone's tensors that the file lacks: they keep their random weights."""
    left_out: tuple[str, ...]
    """The file's tensors that the backbone lacks."""
    adapted: tuple[str, ...]
    """The tensors that were fitted to another size or number of channels."""

    def describe(self, origin: str, layout: str) -> str:
        """Return one line: what was loaded from ``origin``, what is new, what was left out."""
        parts = [f"loaded {self.count} of {self.total} tensors from {origin} ({layout} layout)"]
        parts += [f"fitted to this run: {' '.join(self.adapted)}"] if self.adapted else []
        parts += [f"new: {' '.join(('head', *self.new))}"]
        parts += [f"left out: {summary(self.left_out)}"] if self.left_out else []
        return "; ".join(parts)


def load_weights(
    backbones: Sequence[nn.Module], state: Mapping[str, Tensor], others: Iterable[str] = ()
) -> Loaded:
    """Load a state into a backbone and its momentum copy, which have the same names.

    A position embedding of another size is interpolated by the function of timm's family, and a
    first convolution of another number of channels adapted by ``timm.models.adapt_input_conv``.

    Args:
        backbones: the modules, of equal shapes.
        state: tensors by name; a classifier among them is left out.
        others: names of the file's further tensors, for the report.

    Raises:
        ValueError: too little of it fits; the text has the first differences.
    """
    if not any(key.startswith("model.") for key in state):  # a file of one's own, without the wrap
        backbones = [b.model if isinstance(b, OwnBackbone) else b for b in backbones]
    model = backbones[0]
    own = {key: value for key, value in model.state_dict().items() if not key.endswith(COUNTER)}
    fitted = adapt_first_convolution(model, own, filtered(model, state))
    differing = [
        f"{key} {tuple(fitted[key].shape)}, here {tuple(own[key].shape)}"
        for key in own
        if key in fitted and fitted[key].shape != own[key].shape
    ]
    if differing:
        raise ValueError(
            f"{len(differing)} tensors have other shapes: {'; '.join(differing[:2])}"
            f"{advice(model, own, fitted)}"
        )
    found = {key: fitted[key] for key in own if key in fitted}
    new = tuple(key for key in own if key not in fitted)
    if len(found) < LITTLE * len(own):
        raise ValueError(
            f"only {len(found)} of the backbone's {len(own)} tensors are in it: it lacks "
            f"{', '.join(new[:3])}, and has {', '.join(itertools.islice(state, 3))}"
        )
    left_out = tuple(
        key for key in fitted if key not in model.state_dict() and not key.endswith(COUNTER)
    )
    refuse_deeper(found, left_out)
    counters = {k: v for k, v in fitted.items() if k.endswith(COUNTER) and k in model.state_dict()}
    for backbone in backbones:
        backbone.load_state_dict({**backbone.state_dict(), **found, **counters})
    changed = tuple(key for key in found if key in state and state[key].shape != found[key].shape)
    return Loaded(len(found), len(own), new, (*left_out, *others), changed)


def filtered(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state after timm's own function for the model's family, if it has one."""
    module = inspect.getmodule(type(model))
    functions = (getattr(module, name, None) for name in FILTERS)
    convert: Callable[..., dict[str, Tensor]] | None = next(filter(None, functions), None)
    if convert is None or module is None or not module.__name__.startswith("timm."):
        return dict(state)
    try:
        return dict(convert(dict(state), model))
    except (KeyError, AttributeError, TypeError, RuntimeError, ValueError, AssertionError):
        return dict(state)  # another architecture: the differences are refused by name


def adapt_first_convolution(
    model: nn.Module, own: Mapping[str, Tensor], state: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return the state with a first convolution for as many channels as the model takes."""
    config: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    names = config.get("first_conv") or ()
    for name in (names,) if isinstance(names, str) else names:
        key = f"{name}.weight"
        mine, theirs = own.get(key), state.get(key)
        if mine is None or theirs is None or mine.ndim != 4 or mine.shape == theirs.shape:
            continue
        if mine.shape[0] == theirs.shape[0] and mine.shape[2:] == theirs.shape[2:]:
            from timm.models import adapt_input_conv

            state = {**state, key: adapt_input_conv(mine.shape[1], theirs, theirs.shape[1])}
    return state


def advice(model: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Return what to change if the shapes of the stem alone differ, else of the whole."""
    stem = [key for key in ("conv1.weight", "conv1.0.weight") if key in own and key in state]
    for key in stem:
        mine, theirs = own[key].shape[2:], state[key].shape[2:]
        if mine != theirs:
            fits = "small" if tuple(theirs) == (3, 3) else "standard"
            return f". Its first convolution is that of --stem {fits}"
    return ". Is it another --backbone, or another --image-size or --backbone-args?"


def refuse_deeper(found: Iterable[str], left_out: Iterable[str]) -> None:
    """Refuse tensors of further layers, which are signs of a deeper model.

    Raises:
        ValueError: with the first of them.
    """
    parts = {key.rpartition(".")[0].split(".")[0] for key in found if key.count(".") > 1}
    deeper = [key for key in left_out if key.split(".")[0] in parts]
    if deeper:
        raise ValueError(
            f"it holds {len(deeper)} tensors of further layers, such as {deeper[0]}: it is a "
            "deeper model, to be named by --backbone"
        )


def summary(names: Sequence[str], limit: int = 6) -> str:
    """Return names, those of one module together where they are many.

    >>> summary(["fc.weight", "fc.bias"])
    'fc.weight fc.bias'
    >>> summary([f"module.encoder_k.layer{i}" for i in range(9)] + ["fc.bias"])
    '9 of module.encoder_k, fc.bias'
    """
    if len(names) <= limit:
        return " ".join(names)
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(".".join(name.split(".")[:2]) if "." in name else name, []).append(name)
    if len(groups) > limit:
        groups = {}
        for name in names:
            groups.setdefault(name.split(".")[0], []).append(name)
    parts = [m[0] if len(m) == 1 else f"{len(m)} of {key}" for key, m in groups.items()]
    return ", ".join(parts)
