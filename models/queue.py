"""A ring of embeddings on the device, the same on every rank."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models import distributed


class Queue(nn.Module):
    """The last ``size`` rows written. ``hold`` during forward, ``commit`` after the step.

    A row's slot is the pointer plus the row's place in the step, so neither the number of ranks
    nor of micro-batches shows, and a forward repeated within a step changes nothing. The pointer
    stays on the device: the host never waits for it.
    """

    rows: Tensor
    pointer: Tensor

    def __init__(self, rows: Float[Tensor, "size d"]) -> None:
        super().__init__()
        self.register_buffer("rows", rows)
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self._held: list[tuple[Tensor, Tensor]] = []
        self._step = -1

    def hold(self, step: int, rows: Float[Tensor, "n d"], place: Int[Tensor, " n"]) -> None:
        """Keep this rank's ``rows`` for ``commit``; what an earlier step left is dropped.

        Args:
            step: the batch's.
            rows: embeddings without gradient.
            place: each row's number among the rows that all ranks write in this step.
        """
        if step != self._step:
            self._held.clear()
            self._step = step
        self._held.append((rows.detach(), place))

    @torch.no_grad()
    def commit(self, count: int) -> None:
        """Write all ranks' held rows and move the pointer on by ``count``, the rows of the step."""
        if not self._held:
            return
        rows, place = (torch.cat(parts) for parts in zip(*self._held, strict=True))
        slot = (self.pointer + distributed.gather(place)) % len(self.rows)
        self.rows[slot] = distributed.gather(rows).to(self.rows.dtype)
        self.pointer.add_(count).remainder_(len(self.rows))
        self._held.clear()

    @property
    def filled(self) -> Tensor:
        """Whether the last row has been written (a queue that starts at zero), a device bool."""
        return (self.rows[-1] != 0).any()
