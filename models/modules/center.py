"""A running mean of rows on the device, the same on every rank."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.distributed import gather


class Center(nn.Module):
    """``c <- momentum c + (1 - momentum) mean``, of the rows of all ranks at each step, from 0.

    ``hold`` during forward, ``commit`` after the step; a forward repeated within a step changes
    nothing, for the mean of equal means is theirs.
    """

    value: Tensor

    def __init__(self, dim: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(dim))
        self._held: list[Tensor] = []
        self._step = -1

    def hold(self, step: int, rows: Float[Tensor, "n d"]) -> None:
        """Keep the mean of this rank's ``rows``; what an earlier step left is dropped."""
        if step != self._step:
            self._held.clear()
            self._step = step
        self._held.append(rows.detach().mean(0))

    @torch.no_grad()
    def commit(self) -> None:
        """Move towards the mean of all ranks' held rows; every rank has as many."""
        if not self._held:
            return
        mean = gather(torch.stack(self._held)).mean(0)
        self.value.lerp_(mean.to(self.value.dtype), 1 - self.momentum)
        self._held.clear()
