"""A ring buffer of embeddings on the device, the same on every rank."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models import distributed


class Queue(nn.Module):
    """The last ``size`` rows written: ``stage`` rows during forward, ``commit`` after the step.

    A row's slot is the pointer plus the row's place in the step, so the contents depend neither on
    the number of ranks nor on that of micro-batches, and a forward that is repeated within a step
    changes nothing. The pointer is on the device: the host never waits for it.
    """

    rows: Tensor
    pointer: Tensor

    def __init__(self, rows: Float[Tensor, "size d"]) -> None:
        super().__init__()
        self.register_buffer("rows", rows)
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self._staged: list[tuple[Tensor, Tensor]] = []
        self._step = -1

    def stage(self, step: int, rows: Float[Tensor, "n d"], place: Int[Tensor, " n"]) -> None:
        """Keep this rank's ``rows`` for ``commit``; rows of an earlier step are dropped.

        All calls of a step must have the same number of rows.

        Args:
            step: number of the step.
            rows: embeddings; their gradient is not kept.
            place: each row's number among the rows that all ranks write in this step.
        """
        if step != self._step:
            self._staged.clear()
            self._step = step
        self._staged.append((rows.detach(), place))

    @torch.no_grad()
    def commit(self, count: int) -> None:
        """Write all ranks' staged rows and advance the pointer by ``count``, the step's rows."""
        if not self._staged:
            return
        self._write(self.rows)
        self.pointer.add_(count).remainder_(len(self.rows))
        self._staged.clear()

    @torch.no_grad()
    def with_staged(self) -> Queue:
        """Return a copy in which all ranks' staged rows are written."""
        rows = self.rows.clone()
        self._write(rows)
        return Queue(rows)

    def _write(self, target: Tensor) -> None:
        """Write staged rows in order: where slots collide, the later row stays."""
        rows, place = (torch.stack(parts, 1) for parts in zip(*self._staged, strict=True))
        rows = distributed.gather(rows).to(target.dtype)
        slots = (self.pointer + distributed.gather(place)) % len(target)
        for slot, row in zip(slots.unbind(1), rows.unbind(1), strict=True):
            target[slot] = row

    @property
    def filled(self) -> Tensor:
        """Whether a queue that started with zeros is full: a boolean on the device."""
        return (self.rows[-1] != 0).any()
