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

        All that is held in a step has as many rows.

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
        self._write(self.rows)
        self.pointer.add_(count).remainder_(len(self.rows))
        self._held.clear()

    @torch.no_grad()
    def ahead(self) -> Queue:
        """Return a copy with all ranks' held rows written."""
        rows = self.rows.clone()
        self._write(rows)
        return Queue(rows)

    def _write(self, target: Tensor) -> None:
        """Write what is held, the first first: a later row takes an earlier one's slot."""
        rows, place = (torch.stack(parts, 1) for parts in zip(*self._held, strict=True))
        rows = distributed.gather(rows).to(target.dtype)
        slots = (self.pointer + distributed.gather(place)) % len(target)
        for slot, row in zip(slots.unbind(1), rows.unbind(1), strict=True):
            target[slot] = row

    @property
    def filled(self) -> Tensor:
        """Whether the last row has been written (a queue that starts at zero), a device bool."""
        return (self.rows[-1] != 0).any()
