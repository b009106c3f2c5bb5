"""A step in micro-batches that leaves what the whole batch would have left."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from models import distributed
from models.accumulation import from_one_start
from models.losses.common import unit
from pipelines.batch import Batch

SHUFFLE = 1 << 20
"""The stream of shuffle BN: a mixture's draw is keyed by (seed, step), or with its group."""


class ShuffledKeys:
    """Unit keys encoded in groups that are drawn anew from all ranks' rows at each step.

    Images go to other groups, and keys come back: nobody shares batch statistics with its query's
    group (He 2020, 1911.05722, section 3.3). The groups are those of the whole step, so before
    micro-batches ``ahead`` encodes all of its keys.
    """

    def __init__(self) -> None:
        self._ready: list[Tensor] = []
        self._first = torch.empty(0)

    def ahead(self, encoder: nn.Module, views: Sequence[Tensor], batch: Batch, count: int) -> None:
        """Encode the step's ``views`` in ``count`` pieces; ``of`` returns them until ``forget``."""
        self._first = batch.position[:1]
        self._ready = [
            self._encode(encoder, view, batch, half, count) for half, view in enumerate(views)
        ]

    def forget(self) -> None:
        """Let go of what was encoded ahead."""
        self._ready = []

    def of(
        self, encoder: nn.Module, images: Float[Tensor, "n c h w"], batch: Batch, half: int
    ) -> Float[Tensor, "n d"]:
        """Return the keys of a batch's or micro-batch's images, the ``half``-th that are shown."""
        if self._ready:
            return self._ready[half][batch.position - self._first]
        return self._encode(encoder, images, batch, half)

    @torch.no_grad()
    def _encode(
        self, encoder: nn.Module, images: Tensor, batch: Batch, half: int, count: int = 1
    ) -> Tensor:
        total = len(images) * distributed.world_size()
        order = np.random.default_rng([batch.seed, batch.step, SHUFFLE + half]).permutation(total)
        shuffled = distributed.exchange(images, order)
        if count == 1:
            keys = unit(encoder(shuffled))
        else:
            pieces = from_one_start(encoder, shuffled.chunk(count))
            keys = torch.cat([unit(encoder(piece)) for piece in pieces])
        return distributed.exchange(keys, np.argsort(order))
