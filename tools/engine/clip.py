"""Gradient clipping, and the gradient norm for the log."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn


@torch.no_grad()
def clip(
    accelerator: Accelerator, weights: Sequence[nn.Parameter], limit: float, each: bool
) -> Tensor:
    """Clip gradients to the norm ``limit``, unless it is 0; return their norm before clipping.

    Call this once a step, after the last backward pass: it first divides by fp16's loss scale. The
    norm is a scalar on the device, and the host does not wait for it.

    Args:
        accelerator: holds the loss scaler.
        weights: the parameters; those without a gradient are skipped.
        limit: largest 2-norm of all gradients as one vector; 0: only the norm is computed.
        each: whether the limit applies to each parameter's gradient separately.
    """
    accelerator.unscale_gradients()
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norms = torch.stack(torch._foreach_norm(gradients))
    norm = torch.linalg.vector_norm(norms)
    if limit:
        factors = (limit / ((norms if each else norm) + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, list(factors.expand(len(gradients)).unbind()))
    return norm
