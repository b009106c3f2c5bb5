"""Shuffled batch normalization of keys. He 2020, 1911.05722, section 3.3."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from models import distributed
from models.accumulation import average_running_stats
from models.losses.common import unit
from pipelines.batch import Batch

SHUFFLE_STREAM = 1 << 20
"""Random stream of the permutations, keyed by (seed, step) and by the number of the view."""


class StepKeys:
    """Encodes the unit keys of a step; with ``shuffle`` in batch-norm groups drawn anew.

    Images of all ranks are permuted, encoded, and the keys permuted back, so that a key never
    shares the batch statistics of its query's group. The groups span the whole step: before
    micro-batches, ``encode_ahead`` encodes all keys of the step.
    """

    def __init__(self, *, shuffle: bool) -> None:
        self.shuffle = shuffle
        self._ahead: list[Tensor] = []
        self._first = torch.empty(0)

    def encode_ahead(
        self, encoder: nn.Module, views: Sequence[Tensor], batch: Batch, count: int
    ) -> None:
        """Encode the step's ``views`` in ``count`` pieces; ``encode`` returns them until ``clear``.

        Without shuffling nothing is done: micro-batches then have statistics of their own.
        """
        if self.shuffle:
            self._first = batch.position[:1]
            self._ahead = [
                self._shuffled(encoder, view, batch, number, count)
                for number, view in enumerate(views)
            ]

    def clear(self) -> None:
        """Drop the keys that were encoded ahead."""
        self._ahead = []

    @torch.no_grad()
    def encode(
        self, encoder: nn.Module, views: Sequence[Float[Tensor, "n c h w"]], batch: Batch
    ) -> list[Float[Tensor, "n d"]]:
        """Return the keys of each of the ``views`` of a batch or micro-batch."""
        if not self.shuffle:
            return [unit(encoder(images)) for images in views]
        if self._ahead:
            return [keys[batch.position - self._first] for keys in self._ahead]
        return [self._shuffled(encoder, x, batch, number) for number, x in enumerate(views)]

    @torch.no_grad()
    def _shuffled(
        self, encoder: nn.Module, images: Tensor, batch: Batch, number: int, count: int = 1
    ) -> Tensor:
        total = len(images) * distributed.world_size()
        rng = np.random.default_rng([batch.seed, batch.step, SHUFFLE_STREAM + number])
        order = rng.permutation(total)
        shuffled = distributed.exchange(images, order)
        if count == 1:
            keys = unit(encoder(shuffled))
        else:
            pieces = average_running_stats(encoder, shuffled.chunk(count))
            keys = torch.cat([unit(encoder(piece)) for piece in pieces])
        return distributed.exchange(keys, np.argsort(order))
