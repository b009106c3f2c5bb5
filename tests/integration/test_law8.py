"""Law 8 without a device: no step reads a tensor's value or copies numbers to the device.

On CUDA both make the host wait. ``test_gpu.py`` checks this on a device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from launch_cases import flags
from runs import CASES, MIXES, SMALL, run_train
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode

from models.methods import METHODS, Method
from pipelines.augment import reference
from pipelines.augment.params import draw_params
from pipelines.augment.randaugment import RandAugmenter
from pipelines.presets import PRESETS
from pipelines.rng import RowRng
from pipelines.step_maker import StepMaker
from tools.engine import trainer

READS = {
    *("_local_scalar_dense", "item", "nonzero", "nonzero_static", "equal", "is_nonzero"),
    *("masked_select", "unique_consecutive", "_unique2", "unique_dim", "allclose", "bincount"),
    *("repeat_interleave", "histc"),
}
"""Operators of which something that the host must know, a value or a size, is the result."""
COPIES = {"tensor", "as_tensor", "new_tensor", "cpu", "tolist", "numpy", "cuda"}
"""Functions that copy to or from the device and wait for it."""


class Operators(TorchDispatchMode):
    """Notes the operators, of the backward too, that read values."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.name().removeprefix("aten::").partition(".")[0]
        if name in READS or (name in ("index", "index_put", "index_put_") and by_mask(args[1])):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def by_mask(indices: Any) -> bool:
    """Whether rows are chosen by booleans, whose number the host must count."""
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)


class Functions(TorchFunctionMode):
    """Notes the copies, which are invisible to operators when all is on the host."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = (resolve_name(func) or getattr(func, "__name__", "")).rpartition(".")[2]
        where = (*args[1:], *kwargs.values())
        moves = name == "to" and any(isinstance(x, torch.device | str) for x in where)
        if name in COPIES or (moves and not kwargs.get("non_blocking")):
            self.seen.append(name)
        return func(*args, **kwargs)


@contextmanager
def watch(seen: list[str]) -> Iterator[None]:
    with Functions(seen), Operators(seen):
        yield


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What steps of runs, and the finishing of their batches, ask for."""
    found: list[str] = []

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            with watch(found):
                return function(*args)

        return call

    for owner, name in ((trainer.Run, "train_on"), (StepMaker, "assemble")):
        monkeypatch.setattr(owner, name, watched(getattr(owner, name)))
    return found


@pytest.mark.parametrize(
    ("method", "mix"),
    [
        *(*CASES, ("moco", "clim"), ("byol", "scalemix+unmix")),
        *(("moco-v3", "sdmp"), ("moco-v3", "patchmix")),
    ],
)
def test_no_step_waits_for_the_device(
    toy: Path, tmp_path: Path, seen: list[str], method: str, mix: str
) -> None:
    """With every method's queue and frozen weights; with both of Un-Mix's mixtures."""
    optimizer = "lars" if mix == "none" else "momentum"
    more = ("--mix", mix, "--optimizer", optimizer, "--limit-steps", "4", "--log-every", "4")
    assert run_train(*flags(toy, tmp_path, method, *more)) == 0
    assert not seen


@pytest.mark.parametrize("method", SMALL)
def test_nor_with_the_other_settings(
    toy: Path, tmp_path: Path, seen: list[str], method: str
) -> None:
    """A mixture a group, the colours of large images, bf16."""
    draw_params = "group" if METHODS[method].settings.mixes_groups else "step"
    more = ("--mix", MIXES[method][-1], "--mix-draw", draw_params, "--views", "byol")
    more = (*more, "--limit-steps", "2", "--precision", "bf16")
    if METHODS[method].settings.max_views == 1:
        more = (*more, "--crops", "1", "--crop-sizes", "16", "--crop-scales", "0.2", "1")
    if method == "moco":
        more = (*more, "--moco.symmetric")
    assert run_train(*flags(toy, tmp_path, method, *more)) == 0
    assert not seen


def test_nor_with_micro_batches(toy: Path, tmp_path: Path, seen: list[str]) -> None:
    more = ("--mix", "unmix", "--accumulate", "2", "--moco.symmetric", "--limit-steps", "2")
    assert run_train(*flags(toy, tmp_path, "moco", *more)) == 0
    assert not seen


@pytest.mark.parametrize("each", [(), ("--clip-grad-each",)])
def test_nor_with_clipping(
    toy: Path, tmp_path: Path, seen: list[str], each: tuple[str, ...]
) -> None:
    more = ("--clip-grad", "0.1", *each, "--limit-steps", "2")
    assert run_train(*flags(toy, tmp_path, "dino", *more)) == 0
    assert not seen


@pytest.mark.parametrize("preset", PRESETS)
def test_nor_does_the_device_s_finisher(preset: str) -> None:
    """The host has one of its own, so no run above calls it."""
    side = np.full(16, 40, np.int32)
    for number, view in enumerate(PRESETS[preset](24)):
        drawn = draw_params(view, number, RowRng(0, 0), np.arange(16), side, side)
        augmenter, found = RandAugmenter(reference), list[str]()
        todo = augmenter.plan(view, drawn)
        crops = torch.zeros(16, view.size, view.size, 3, dtype=torch.uint8)
        with watch(found):
            augmenter.augment(crops, todo, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
        assert not found


READERS: dict[str, Callable[[Tensor], Any]] = {
    "_local_scalar_dense": lambda x: x.sum().item(),
    "nonzero": lambda x: x.nonzero(),
    "index": lambda x: x[x > 0],
    "equal": lambda x: torch.equal(x, x),
    "masked_select": lambda x: x.masked_select(x > 0),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "new_tensor": lambda x: x.new_tensor([1.0]),
    "tensor": lambda x: torch.tensor([1.0]),
}


@pytest.mark.parametrize("name", READERS)
def test_whatever_waits_is_noticed(name: str) -> None:
    found: list[str] = []
    with watch(found):
        READERS[name](torch.ones(3))
    assert name in found
    found.clear()
    with watch(found):
        if torch.ones(3).sum() > 2:
            pass
    assert found == ["_local_scalar_dense"]


def test_a_step_that_waits_is_noticed(
    toy: Path, tmp_path: Path, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def after_step(method: Method, progress: float) -> None:
        float(next(method.parameters()).detach().sum())

    monkeypatch.setattr("models.methods.simclr.Simclr.after_step", after_step)
    assert run_train(*flags(toy, tmp_path, "simclr", "--limit-steps", "1")) == 0
    assert "_local_scalar_dense" in seen
