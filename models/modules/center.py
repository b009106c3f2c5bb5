"""An exponential moving average of rows on the device, the same on every rank."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.distributed import gather


class Center(nn.Module):
    """``c <- momentum c + (1 - momentum) mean``, the mean over all ranks' rows of a step, from 0.

    ``stage`` rows during forward, ``commit`` after the step. A forward that is repeated within a
    step changes nothing, since the mean of equal means is the same mean.
    """

    value: Tensor

    def __init__(self, dim: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(dim))
        self._staged: list[Tensor] = []
        self._step = -1

    def stage(self, step: int, rows: Float[Tensor, "n d"]) -> None:
        """Keep the mean of this rank's ``rows`` for ``commit``; an earlier step's is dropped."""
        if step != self._step:
            self._staged.clear()
            self._step = step
        self._staged.append(rows.detach().mean(0))

    @torch.no_grad()
    def commit(self) -> None:
        """Move towards the mean of all ranks' staged rows; every rank has the same number."""
        if not self._staged:
            return
        mean = gather(torch.stack(self._staged)).mean(0)
        self.value.lerp_(mean.to(self.value.dtype), 1 - self.momentum)
        self._staged.clear()
