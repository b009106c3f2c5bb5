"""Memory banks: one embedding for each image of the data set, and its negatives.

Wu 2018, 1805.01978 (InsDis); Tian 2020, 1906.05849 (CMC). The losses are in ``losses.contrastive``.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.distributed import all_reduce_sum, gather, world_size
from models.losses.common import full_precision, unit
from models.losses.contrastive import nce_loss, softmax_loss
from models.settings.bank import BankConfig
from pipelines.batch import Batch

NEGATIVES_STREAM = 1 << 22
"""Random stream of the negatives, keyed by (seed, step)."""


class MemoryBank(nn.Module):
    """A unit row for each of ``num_rows`` images, the same on every rank.

    ``candidates``, ``contrast`` and ``stage`` during forward, ``commit`` after the step. The bank
    is part of the checkpoint: ``num_rows * dim`` floats. Rows start uniform in +-1 / sqrt(dim / 3).
    """

    rows: Tensor
    partition: Tensor

    def __init__(self, num_rows: int, config: BankConfig, generator: torch.Generator) -> None:
        if num_rows < 2:
            raise ValueError(f"a memory bank needs the number of images, not {num_rows}")
        super().__init__()
        self.config = config
        scale = 1 / math.sqrt(config.dim / 3)
        start = torch.rand(num_rows, config.dim, generator=generator)
        self.register_buffer("rows", (2 * start - 1) * scale)
        # Z of NCE: 0 until the first global batch sets it, then constant.
        self.register_buffer("partition", torch.zeros(()))
        self._staged: list[tuple[Tensor, Tensor]] = []
        self._partitions: list[Tensor] = []
        self._step = -1

    def candidates(self, batch: Batch) -> Int[Tensor, "n k"]:
        """Return each image's rows of the bank: its own in column 0, then its negatives."""
        count, num_rows = self.config.negatives, len(self.rows)
        negatives = sample_negatives(batch.seed, batch.step, batch.position, count, num_rows)
        return torch.cat([batch.index[:, None], negatives], 1)

    def contrast(
        self, f: Float[Tensor, "n d"], candidates: Int[Tensor, "n k"]
    ) -> Float[Tensor, " n"]:
        """Return the loss of unit rows against their candidates."""
        scores = candidate_scores(f, self.rows, candidates) / self.config.temperature
        if self.config.softmax:
            return softmax_loss(scores)
        mean = all_reduce_sum(scores.detach().exp().mean()) / world_size()
        measured = (mean * len(self.rows)).to(self.partition.dtype)
        self._partitions.append(measured)
        partition = torch.where(self.partition > 0, self.partition, measured)
        return nce_loss(scores, partition, len(self.rows))

    def stage(self, f: Float[Tensor, "n d"], batch: Batch) -> None:
        """Keep the batch's embeddings for ``commit``; those of an earlier step are dropped."""
        if batch.step != self._step:
            self._staged.clear()
            self._step = batch.step
        self._staged.append((f.detach(), batch.index))

    @torch.no_grad()
    def commit(self) -> None:
        """Update all ranks' rows, ``v <- unit(momentum v + (1 - momentum) f)``, and fix Z."""
        if self._partitions:
            measured = torch.stack(self._partitions).mean()
            self.partition.copy_(torch.where(self.partition > 0, self.partition, measured))
            self._partitions.clear()
        if not self._staged:
            return
        f, index = (gather(torch.cat(parts)) for parts in zip(*self._staged, strict=True))
        moved = torch.lerp(f.to(self.rows.dtype), self.rows[index], self.config.momentum)
        self.rows[index] = unit(moved)
        self._staged.clear()


def sample_negatives(
    seed: int, step: int, position: Int[Tensor, " n"], count: int, num_rows: int
) -> Int[Tensor, "n {count}"]:
    """Return rows drawn uniformly with replacement, on the device, for each position in the batch.

    They are numbers ``position * count + j`` of a splitmix64 sequence (Steele 2014) whose start is
    keyed by (seed, step), so the draws do not depend on the number of ranks.
    """
    start = int(np.random.default_rng([seed, step, NEGATIVES_STREAM]).integers(1 << 62))
    place = torch.arange(1, count + 1, device=position.device) + position[:, None] * count
    x = start + place * _signed(0x9E3779B97F4A7C15)  # int64 wraps around as uint64 does
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    return _shift(x ^ _shift(x, 31), 1) % num_rows


def _signed(word: int) -> int:
    """Return the int64 with the bits of a uint64."""
    return word - (1 << 64) if word >> 63 else word


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift 64-bit words right, filling with zeros."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


@full_precision
def candidate_scores(
    f: Float[Tensor, "n d"], bank: Float[Tensor, "m d"], candidates: Int[Tensor, "n k"]
) -> Float[Tensor, "n k"]:
    """Return ``f_i . bank_j`` for j in ``candidates[i]``.

    All m products are computed and k of them selected. Copying k rows of the bank for each image
    takes more memory as soon as m < k d, which is 2 million with the published numbers.
    """
    return (f @ bank.to(f.dtype).T).gather(1, candidates)
