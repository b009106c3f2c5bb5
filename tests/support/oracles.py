"""Compare losses with NumPy float64 loops, values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def rows(n: int, d: int, seed: int, unit: bool = True) -> Tensor:
    """Random float64 rows, of unit length unless asked otherwise."""
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(x, dim=1) if unit else x


def check(value: Tensor, loop: np.ndarray | float, atol: float = 1e-10) -> None:
    np.testing.assert_allclose(value.detach().numpy(), loop, rtol=0, atol=atol)


def check_gradient(
    loss: Callable[..., Tensor], loop: Callable[..., np.ndarray | float], *inputs: Tensor
) -> None:
    """Autograd of the mean against central differences of the loop, at three places."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    loss(*leaves).mean().backward()
    arrays = [x.numpy().copy() for x in inputs]
    for leaf, array in zip(leaves, arrays, strict=True):
        assert leaf.grad is not None
        for place in [(0, 0), (3, 2), (-1, -1)]:
            sides = []
            for sign in (1, -1):
                array[place] += sign * 1e-5
                sides.append(np.mean(loop(*arrays)))
                array[place] -= sign * 1e-5
            slope = (sides[0] - sides[1]) / 2e-5
            assert abs(float(leaf.grad[place]) - slope) < 1e-6
