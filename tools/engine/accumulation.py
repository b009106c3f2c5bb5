"""Gradient accumulation: the gradient of a batch, computed in micro-batches."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from models.accumulation import average_running_stats
from models.methods import Method
from pipelines.batch import Batch


def backward(
    accelerator: Accelerator, model: nn.Module, method: Method, batch: Batch, count: int
) -> dict[str, Tensor]:
    """Add the gradient of the whole batch to the parameters' gradients; return the loss terms.

    ``model`` is ``method`` as wrapped by Accelerate. The processes exchange gradients in the last
    of the ``count`` micro-batches. Drop path and dropout draw from (seed, step, process) alone, so
    a resumed run draws what an uninterrupted one does.
    """
    key = [batch.seed, batch.step, accelerator.process_index]
    torch.manual_seed(int(np.random.default_rng(key).integers(2**63)))
    if count == 1:
        terms = model(batch)
        accelerator.backward(total(terms))
        return terms
    with accelerator.autocast():
        method.before_accumulation(batch, count)
    seen = []
    for number, part in enumerate(average_running_stats(method, batch.parts(count)), start=1):
        with nullcontext() if number == count else accelerator.no_sync(model):
            terms = model(part)
            accelerator.backward(total(terms) / count)
        seen.append({name: term.detach() for name, term in terms.items()})
    return {name: torch.stack([terms[name] for terms in seen]).mean(0) for name in seen[0]}


def total(terms: dict[str, Tensor]) -> Tensor:
    """Return the loss, the sum of its terms."""
    return torch.stack(list(terms.values())).sum()
