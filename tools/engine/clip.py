"""Gradients kept to a length before the optimiser takes them, and their norm for the log."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn


@torch.no_grad()
def clip(
    accelerator: Accelerator, weights: Sequence[nn.Parameter], limit: float, each: bool
) -> Tensor:
    """Shorten gradients longer than ``limit``, unless it is 0; return the norm of all before that.

    Call it once a step, after the last backward: the loss scale of fp16 is divided out first. The
    norm is a scalar on the device, and nothing here waits for it.

    Args:
        accelerator: holds the scaler.
        weights: the parameters; those without a gradient are passed over.
        limit: largest 2-norm, of all gradients as one vector; 0: only the norm is computed.
        each: whether the limit is for each parameter's gradient by itself.
    """
    accelerator.unscale_gradients()
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norms = torch.stack(torch._foreach_norm(gradients))
    norm = torch.linalg.vector_norm(norms)
    if limit:
        factors = (limit / ((norms if each else norm) + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, list(factors.expand(len(gradients)).unbind()))
    return norm
