"""What a run will do, before it does it: settings, steps, and an estimate of its memory."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
import yaml
from torch import Tensor

from models.methods import Method
from pipelines.batch import Batch, Mixed
from pipelines.views import ViewPlan
from tools.config.cli import to_dict
from tools.config.config import ResolvedConfig


def describe(config: ResolvedConfig, method: Method, plan: ViewPlan, steps: int, rows: int) -> str:
    """Return the resolved settings, the steps and the device memory, as text.

    ``steps`` is the length of an epoch, ``rows`` this process's share of a batch.
    """
    weights, activations = memory(config, method, plan, rows // config.accumulate)
    lines = [
        yaml.safe_dump(to_dict(config), sort_keys=False).rstrip(),
        f"steps: {steps:,} an epoch, {steps * config.epochs:,} in all, "
        f"{rows} images each on every process",
        f"device memory, estimated: {weights / 2**30:.2f} GiB for weights, gradients, optimiser "
        f"and method state, {activations / 2**30:.2f} GiB for a step's activations"
        + (f" ({rows // config.accumulate} images at a time)" if config.accumulate > 1 else ""),
    ]
    return "\n".join(lines)


def memory(config: ResolvedConfig, method: Method, plan: ViewPlan, rows: int) -> tuple[int, int]:
    """Return the bytes of persistent state and of a step's saved activations.

    The step runs on the meta device: shapes only, no arithmetic.
    """
    trained = size_of(p for p in method.parameters() if p.requires_grad)
    persistent = size_of(method.state_dict().values())
    moments = 2 if "adam" in config.optimizer else 1
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    shadow = copy.deepcopy(method).to("meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        shadow(_meta_batch(config, plan, rows))
    parameters = {p.untyped_storage()._cdata for p in shadow.parameters()}
    activations = [t for key, t in saved.items() if key not in parameters]
    share = 0.5 if config.precision in ("bf16", "fp16") else 1.0
    return persistent + (1 + moments) * trained, int(share * size_of(activations))


def size_of(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the tensors' elements."""
    return sum(t.numel() * t.element_size() for t in tensors)


def _meta_batch(config: ResolvedConfig, plan: ViewPlan, rows: int) -> Batch:
    shown = 2 * rows if config.mix == "clim" else rows  # anchors, then their neighbors
    images = tuple(torch.empty(shown, 3, v.size, v.size, device="meta") for v in plan.views)
    index = torch.empty(rows, dtype=torch.int64, device="meta")
    share = torch.empty(rows, device="meta")
    mixed = tuple(Mixed(v, images[v][:rows], index, share) for v in plan.mixed)
    return Batch(images, index, index, index, config.seed, 0, mixed)
