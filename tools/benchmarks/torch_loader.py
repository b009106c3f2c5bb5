"""A conventional loader: PIL images and a transform in the worker processes of a ``DataLoader``."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from pipelines.sampler import Sampler
from pipelines.sources.table import Table
from pipelines.system.workers import main_hidden


class Images(Dataset):
    """A data set of PIL images, each transformed into its views."""

    def __init__(self, table: Table, transform: Callable[[Image.Image], object]) -> None:
        # A fresh table: one that has been read holds a memory map, which cannot be sent to workers
        self.table, self.transform = table.take(np.arange(len(table))), transform

    def __getitem__(self, row: int) -> object:
        """Return the views of a row."""
        data = self.table.source.encoded(row)
        if data is None:
            return self.transform(Image.fromarray(self.table.source.pixels(row)))
        with Image.open(io.BytesIO(data.tobytes())) as image:
            return self.transform(image.convert("RGB"))


class Workers:
    """A ``DataLoader`` whose ``workers`` processes live from the first batch to ``close``."""

    def __init__(
        self,
        table: Table,
        order: Sampler,
        workers: int,
        transform: Callable[[Image.Image], object],
        *,
        pin: bool = False,
    ) -> None:
        self.order = order
        self.warm = self.tail = workers
        self.batches: list[list[int]] = []
        self.loader = DataLoader(
            Images(table, transform),
            batch_sampler=self.batches,
            num_workers=workers,
            persistent_workers=True,
            pin_memory=pin,
            multiprocessing_context="forkserver",
        )

    def run(self, steps: int) -> Iterator[Any]:
        """Return an iterator over an epoch of ``steps`` batches."""
        self.batches[:] = [self.order.rows(step).tolist() for step in range(steps)]
        with main_hidden():
            return iter(self.loader)

    def close(self) -> None:
        """End the worker processes."""
        iterator, self.loader._iterator = self.loader._iterator, None
        if iterator is not None:
            iterator._shutdown_workers()  # type: ignore[attr-defined]
