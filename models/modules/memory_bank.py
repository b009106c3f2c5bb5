"""Memory banks: one embedding for each row of the data set, and the losses against them.

Wu 2018, 1805.01978 (InsDis); Tian 2020, 1906.05849 (CMC).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.distributed import all_reduce_sum, gather, world_size
from models.losses.common import full_precision, unit
from models.settings import BankConfig
from pipelines.batch import Batch

NEGATIVES = 1 << 22
"""The stream of the negatives, keyed by (seed, step)."""
TINY = 1e-7
"""What the published code adds below each fraction of the NCE form."""


class Bank(nn.Module):
    """A unit row for each of ``num_rows`` images, the same on every rank.

    ``pick``, ``contrast`` and ``hold`` during forward, ``commit`` after the step. All of it is in
    the checkpoint: ``num_rows * dim`` floats. The rows start uniform in +-1 / sqrt(dim / 3).
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
        # Z of the NCE form: set by the first global batch, then frozen; 0 before.
        self.register_buffer("partition", torch.zeros(()))
        self._held: list[tuple[Tensor, Tensor]] = []
        self._measured: list[Tensor] = []
        self._step = -1

    def pick(self, batch: Batch) -> Int[Tensor, "n k"]:
        """Return the rows that each image meets: its own, and the negatives drawn."""
        count, num_rows = self.config.negatives, len(self.rows)
        drawn = draw_rows(batch.seed, batch.step, batch.position, count, num_rows)
        return torch.cat([batch.index[:, None], drawn], 1)

    def contrast(self, f: Float[Tensor, "n d"], picked: Int[Tensor, "n k"]) -> Float[Tensor, " n"]:
        """Return the loss of unit rows against those they meet."""
        scores = scores_of(f, self.rows, picked) / self.config.temperature
        if self.config.softmax:
            return softmax_loss(scores)
        mean = all_reduce_sum(scores.detach().exp().mean()) / world_size()
        measured = (mean * len(self.rows)).to(self.partition.dtype)
        self._measured.append(measured)
        partition = torch.where(self.partition > 0, self.partition, measured)
        return nce_loss(scores, partition, len(self.rows))

    def hold(self, f: Float[Tensor, "n d"], batch: Batch) -> None:
        """Keep the batch's embeddings for ``commit``; those of an earlier step are dropped."""
        if batch.step != self._step:
            self._held.clear()
            self._step = batch.step
        self._held.append((f.detach(), batch.index))

    @torch.no_grad()
    def commit(self) -> None:
        """Move all ranks' rows: ``v <- unit(momentum v + (1 - momentum) f)``; freeze Z."""
        if self._measured:
            measured = torch.stack(self._measured).mean()
            self.partition.copy_(torch.where(self.partition > 0, self.partition, measured))
            self._measured.clear()
        if not self._held:
            return
        f, index = (gather(torch.cat(parts)) for parts in zip(*self._held, strict=True))
        moved = torch.lerp(f.to(self.rows.dtype), self.rows[index], self.config.momentum)
        self.rows[index] = unit(moved)
        self._held.clear()


def draw_rows(
    seed: int, step: int, position: Int[Tensor, " n"], count: int, num_rows: int
) -> Int[Tensor, "n {count}"]:
    """Return rows drawn uniformly with replacement, on the device, for each place in the batch.

    Number ``position * count + j`` of a splitmix64 sequence (Steele 2014) that starts at a number
    keyed by (seed, step), so that neither ranks nor the host's time show.
    """
    start = int(np.random.default_rng([seed, step, NEGATIVES]).integers(1 << 62))
    place = torch.arange(1, count + 1, device=position.device) + position[:, None] * count
    x = start + place * _signed(0x9E3779B97F4A7C15)  # int64 wraps around as uint64 does
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    return _shift(x ^ _shift(x, 31), 1) % num_rows


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift 64-bit words right, filling with zeros."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


@full_precision
def scores_of(
    f: Float[Tensor, "n d"], bank: Float[Tensor, "m d"], picked: Int[Tensor, "n k"]
) -> Float[Tensor, "n k"]:
    """Return ``f_i . bank_j`` for j in ``picked[i]``.

    All m products are made and k of them taken: copying k rows of the bank for each image costs
    more memory as soon as m < k d, 2 million for the published numbers.
    """
    return (f @ bank.to(f.dtype).T).gather(1, picked)


@full_precision
def nce_loss(
    scores: Float[Tensor, "n k"], partition: Float[Tensor, ""], num_rows: int
) -> Float[Tensor, " n"]:
    """Return noise-contrastive estimation with the image's own row in column 0.

    With K = k - 1 negatives, ``c = K / num_rows`` and ``x_j = exp(score_j) / Z``: ``-log(x_0 / (x_0
    + c + 1e-7)) - sum_{j > 0} log(c / (x_j + c + 1e-7))``. Source: Wu 2018, 1805.01978, eq. 5 to 7,
    as published with CMC.

    Args:
        scores: cosines over the temperature.
        partition: Z, the constant in place of the sum over all rows.
        num_rows: of the bank.
    """
    x = scores.exp() / partition
    noise = (scores.shape[1] - 1) / num_rows
    own = (x[:, 0] / (x[:, 0] + noise + TINY)).log()
    others = (noise / (x[:, 1:] + noise + TINY)).log().sum(1)
    return -own - others


@full_precision
def softmax_loss(scores: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """Return ``-log(exp(score_0) / sum_j exp(score_j))``."""
    return scores.logsumexp(1) - scores[:, 0]
