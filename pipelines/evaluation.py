"""Evaluation views: a centre crop of every row, once, in order, without randomness."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.augment.params import center_box
from pipelines.augment.reference import AugmentPlan, augment
from pipelines.decoders import Crops, Decoder
from pipelines.decoders.memory import MemoryDecoder
from pipelines.read_ahead import Requests
from pipelines.sampler import all_rows
from pipelines.sources.table import Table, check_normalization
from pipelines.system.transfer import device_thread

READ_AHEAD = 8
"""Batches whose bytes are requested while an earlier one is decoded."""


@dataclass(frozen=True)
class CenterCrop:
    """The evaluation view: shorter side to ``resize``, centre ``size`` pixels, normalized."""

    size: int
    resize: int
    mean: Sequence[float]
    """Mean of each channel, of pixels in [0, 1]; ``std`` likewise."""
    std: Sequence[float]


def evaluation_batches(
    table: Table,
    decoder: Decoder,
    view: CenterCrop,
    batch_size: int,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
    rows: NDArray[np.int64] | None = None,
) -> Generator[tuple[Tensor, NDArray[np.int64]], None, None]:
    """Yield ``(images (n, c, size, size), places (n,))`` of this rank's share, each row once.

    ``rows`` (default: all) are the rows to show; ``places`` index it. The next batch is decoded
    while the caller computes.
    """
    check_normalization(table, view.mean, view.std)
    chosen = np.arange(len(table)) if rows is None else rows

    def decode(places: NDArray[np.int64]) -> Tensor:
        rows = chosen[places]
        box = center_box(table.height[rows], table.width[rows], view.size, view.resize)
        with table.source.held(rows):
            return decoder(rows, [Crops(view.size, np.arange(len(rows)), box)])[0]

    def images(decoded: Future[Tensor]) -> Tensor:
        crops = reader.scope.result(decoded).to(device, non_blocking=True)
        return augment(crops, AugmentPlan.nothing(len(crops), device), view.mean, view.std)

    share = len(chosen), batch_size, rank, world_size
    coming = (chosen[places] for places in all_rows(*share))
    reader = Requests(table.source, coming, 0 if isinstance(decoder, MemoryDecoder) else READ_AHEAD)
    with device_thread("unmix-evaluation", device) as pool, closing(reader):
        ahead = deque[tuple[Future[Tensor], NDArray[np.int64]]]()
        for number, places in enumerate(all_rows(*share)):
            reader.during(number)
            ahead.append((pool.submit(reader.scope.run, decode, places), places))
            if number:
                yield images(ahead[0][0]), ahead.popleft()[1]
        if ahead:
            yield images(ahead[0][0]), ahead.popleft()[1]
