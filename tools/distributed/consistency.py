"""``--check-ranks``: check that all processes hold the same weights, buffers and neighbours."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from models.methods import Method
from models.modules.batchnorm import BatchNorm

NAMED = 8
"""Largest number of tensors that an error names."""


class RanksDiffer(ValueError):
    """The processes of a run hold different values of replicated tensors."""


def check_ranks(
    accelerator: Accelerator, method: Method, neighbors: Mapping[str, Any] | None, step: int
) -> None:
    """Compare the replicated tensors of all processes after ``step`` finished steps; all call it.

    The host waits for the device and copies all of them.

    Raises:
        RanksDiffer: tensors differ; the text names them and the processes that differ from the
            majority (of two, from the first).
    """
    if accelerator.num_processes == 1:
        return
    held = dict(common(method, neighbors))
    here = torch.stack([digest(tensor) for tensor in held.values()])
    digests = accelerator.gather(here[None].to(accelerator.device)).cpu().numpy()
    found = [
        f"{name} (process {', '.join(map(str, ranks))})"
        for name, column in zip(held, digests.T, strict=True)
        if len(ranks := unlike(column))
    ]
    if found:
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise RanksDiffer(
            f"--check-ranks: after step {step:,} the processes do not hold the same "
            f"{', '.join(found[:NAMED])}{more}. Do not trust the training since the last check: "
            "resume from an older checkpoint"
        )


def common(method: Method, neighbors: Mapping[str, Any] | None) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and tensors that must be equal on all ranks.

    Running statistics of group batch norm are left out: each rank has those of its own groups until
    a checkpoint or an evaluation averages them.
    """
    own = {
        f"{name}.{buffer}"
        for name, module in method.named_modules()
        if isinstance(module, BatchNorm) and module.mode == "group"
        for buffer in ("running_mean", "running_var")
    }
    yield from method.named_parameters()
    yield from ((name, buffer) for name, buffer in method.named_buffers() if name not in own)
    table = neighbors or {}
    for name in ("step", "rows", "count"):
        yield f"neighbours.{name}", torch.as_tensor(table.get(name, -1))


def digest(tensor: Tensor) -> Tensor:
    """Return a 64-bit digest of a tensor's bits, dtype and shape, as a scalar on the host."""
    values = tensor.detach().cpu().contiguous()
    found = hashlib.sha256(str((values.dtype, values.shape)).encode())
    found.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return torch.tensor(int.from_bytes(found.digest()[:8], "big", signed=True))


def unlike(column: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the ranks whose value is not the most frequent one; ties go to the first rank."""
    _, first, inverse, count = np.unique(
        column, return_index=True, return_inverse=True, return_counts=True
    )
    usual = np.lexsort((first, -count))[0]
    return np.flatnonzero(inverse != usual)
