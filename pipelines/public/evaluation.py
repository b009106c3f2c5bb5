"""``build_eval_loader``: a centre crop of every row, once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch

from pipelines.batch import Batch
from pipelines.decoders import Decoder
from pipelines.evaluation import CenterCrop, evaluation_batches
from pipelines.public.data import Data
from pipelines.public.options import (
    DEFAULTS,
    LoaderOptions,
    choose_device,
    make_decoder,
    normalization_of,
)
from pipelines.sources.table import Table
from pipelines.system.transfer import to_device


def build_eval_loader(  # noqa: PLR0913 - a public builder
    data: Data,
    batch_size: int = 256,
    *,
    size: int | None = None,
    resize: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    options: LoaderOptions = DEFAULTS,
) -> EvalLoader:
    """Build an iterable of centre crops: every row once over all ranks, in order.

    Args:
        data: from ``open_data``, usually with ``split="val"``.
        batch_size: images of a batch of this rank; the last batch may be short.
        size: side of the crop in pixels (default: the data's).
        resize: shorter side of the image in pixels before the crop (default: the data's, scaled
            with ``size``).
        rank: rank of this process.
        world_size: number of processes.
        device: device of the batches (default: the current CUDA device, else the host).
        mean: mean of each channel, as of ``build_loader``.
        std: standard deviation of each channel, likewise.
        options: how images are read.

    Raises:
        ValueError: an argument is out of range.
        MissingPackage: ``options.loader`` needs a package that is not installed.
    """
    if batch_size < 1 or not 0 <= rank < world_size:
        raise ValueError(f"batch_size={batch_size}, rank={rank}, world_size={world_size}: no share")
    where, facts = choose_device(device), data.facts
    side = size or facts.image_size
    shorter = resize or round(side * (facts.eval_resize or facts.image_size) / facts.image_size)
    if shorter < side:
        raise ValueError(f"resize={shorter} is smaller than size={side}")
    crop = CenterCrop(side, shorter, *normalization_of(data, mean, std))
    table, decoder = make_decoder(data, where, options)
    return EvalLoader(table, decoder, crop, batch_size, where, rank, world_size)


@dataclass
class EvalLoader:
    """Centre crops of a rank's share of the rows, as batches of one view."""

    table: Table
    decoder: Decoder
    view: CenterCrop
    batch_size: int
    device: torch.device
    rank: int
    world_size: int

    def __len__(self) -> int:
        begin, end = (len(self.table) * (self.rank + i) // self.world_size for i in (0, 1))
        return -(-(end - begin) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        batches = evaluation_batches(
            self.table,
            self.decoder,
            self.view,
            self.batch_size,
            self.device,
            self.rank,
            self.world_size,
        )
        with closing(batches):
            for step, (images, rows) in enumerate(batches):
                index = to_device(torch.from_numpy(rows), self.device)
                label = to_device(torch.from_numpy(self.table.label[rows]), self.device)
                yield Batch((images,), index, label, index, seed=0, step=step)

    def close(self) -> None:
        """Release threads and memory."""
        self.decoder.close()

    def __enter__(self) -> EvalLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
