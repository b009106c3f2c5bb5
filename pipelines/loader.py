"""Table, Order, Draws, decoder and finisher in a row: steps in, batches out.

The decoder runs ahead of the step in a thread of its own. On the host the views are finished there
as well; on CUDA the crops cross on a side stream out of pinned memory while the last step computes,
and are finished on the training stream. A batch that cannot be made raises; none is dropped, so an
epoch is never short.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.augment import View, centre_box, draw
from pipelines.batch import Batch
from pipelines.decoders import Crops, Decoder
from pipelines.draws import Draws
from pipelines.finish import Plan, finish, plan
from pipelines.finish_host import HostFinisher
from pipelines.mixtures import Mixture, mix_views
from pipelines.order import Order, all_rows
from pipelines.table import Table


@dataclass(frozen=True, slots=True)
class _Ready:
    """A decoded step, on its way to the device."""

    step: int
    rows: NDArray[np.int64]
    crops: list[Tensor]
    plans: list[Plan]
    arrived: torch.cuda.Event


@dataclass
class Loader:
    """Batches of a rank for any range of steps; ``waited`` counts seconds spent waiting for them.

    ``groups`` is the number of groups of the whole batch (mixtures pair rows inside a group);
    ``mixed`` the views that ``mixture`` mixes; ``mix_per_group`` draws one mixture a group;
    ``workers`` the threads that finish views on the host.
    """

    table: Table
    order: Order
    views: Sequence[View]
    decoder: Decoder
    mean: Sequence[float]
    std: Sequence[float]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    mixture: Mixture | None = None
    mixed: Sequence[int] = (0,)
    mix_per_group: bool = False
    groups: int = 1
    prefetch: int = 3
    workers: int = 1
    waited: float = 0.0

    def __post_init__(self) -> None:
        size = self.order.batch_size
        if size % self.groups or (self.mixture and self.groups % self.order.world_size):
            raise ValueError(
                f"--batch-size {size}, --groups {self.groups} and {self.order.world_size} "
                "processes: the groups must divide the batch and the processes the groups"
            )
        if self.mixture and (size // self.groups) % 2:
            raise ValueError(
                f"--batch-size {size} in --groups {self.groups} gives odd groups: rows are mixed "
                "in pairs"
            )
        self._side = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._host = HostFinisher(self.workers)  # its threads start with its first view

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield the batches of steps ``start`` to ``stop - 1`` of the run, each with its number."""
        with ThreadPoolExecutor(1, "unmix-prefetch") as pool:
            ahead: deque = deque()
            todo = iter(range(start, stop))
            try:
                for step in todo:
                    ahead.append(pool.submit(self._prepare, step))
                    if len(ahead) > self.prefetch:
                        yield self._next(ahead)
                while ahead:
                    yield self._next(ahead)
            finally:
                for future in ahead:
                    future.cancel()

    def _next(self, ahead: deque) -> Batch:
        began = time.perf_counter()
        ready = ahead.popleft().result()
        self.waited += time.perf_counter() - began
        return ready if isinstance(ready, Batch) else self._finish(ready)

    def _prepare(self, step: int) -> Batch | _Ready:
        """Decode a step; without a device to hand it to, finish it here as well."""
        rows = self.order.rows(step)
        draws = Draws(self.order.seed, self.order.epoch(step))
        height, width = self.table.height[rows], self.table.width[rows]
        drawn = [draw(v, i, draws, rows, height, width) for i, v in enumerate(self.views)]
        take = np.arange(len(rows))
        windows = [Crops(v.size, take, d.box) for v, d in zip(self.views, drawn, strict=True)]
        if self._side is None:
            todo = zip(self.decoder(rows, windows), self.views, drawn, strict=True)
            views = tuple(self._host(*each, self.mean, self.std) for each in todo)
            return self._batch(step, rows, views)
        plans = [plan(v, d) for v, d in zip(self.views, drawn, strict=True)]
        with torch.cuda.stream(self._side):  # decoding on the device happens there as well
            crops = self.decoder(rows, windows)
            crops = [c.to(self.device, non_blocking=True) for c in crops]
            plans = [p.to(self.device) for p in plans]
            return _Ready(step, rows, crops, plans, self._side.record_event())

    def _finish(self, ready: _Ready) -> Batch:
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(ready.arrived)
        for tensor in (*ready.crops, *(t for p in ready.plans for t in p.tensors())):
            tensor.record_stream(stream)
        views = tuple(
            finish(c, p, self.mean, self.std) for c, p in zip(ready.crops, ready.plans, strict=True)
        )
        return self._batch(ready.step, ready.rows, views)

    def _batch(self, step: int, rows: NDArray[np.int64], views: tuple[Tensor, ...]) -> Batch:
        return Batch(
            views=views,
            index=self._on_device(rows),
            label=self._on_device(self.table.label[rows]),
            position=self._on_device(self.order.positions),
            seed=self.order.seed,
            step=step,
            mixed=self._mix(views, step),
        )

    def _mix(self, views: Sequence[Tensor], step: int) -> tuple:
        if self.mixture is None:
            return ()
        group = self.order.batch_size // self.groups
        first = int(self.order.positions[0]) // group if self.mix_per_group else None
        return mix_views(
            self.mixture,
            views,
            self.mixed,
            seed=self.order.seed,
            step=step,
            group=group,
            first_group=first,
        )

    def _on_device(self, array: NDArray[np.int64]) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._side is not None:
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)


@dataclass(frozen=True)
class Centre:
    """The evaluation view: shorter side to ``resize``, centre ``size`` pixels, no colour."""

    size: int
    resize: int


def evaluation_batches(
    table: Table,
    decoder: Decoder,
    view: Centre,
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
    rows: NDArray[np.int64] | None = None,
) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
    """Yield ``(images (n, 3, size, size), places (n,))`` of this rank's share, each row once.

    ``rows`` (default: all) are the rows to show, ``places`` count in it. The next batch is
    decoded while the caller computes.
    """
    chosen = np.arange(len(table)) if rows is None else rows

    def decode(places: NDArray[np.int64]) -> Tensor:
        rows = chosen[places]
        box = centre_box(table.height[rows], table.width[rows], view.size, view.resize)
        return decoder(rows, [Crops(view.size, np.arange(len(rows)), box)])[0]

    def images(crops: Tensor) -> Tensor:
        crops = crops.to(device, non_blocking=True)
        return finish(crops, Plan.nothing(len(crops), device), mean, std)

    with ThreadPoolExecutor(1, "unmix-evaluation") as pool:
        ahead = None
        for places in all_rows(len(chosen), batch_size, rank, world_size):
            following = (pool.submit(decode, places), places)
            if ahead is not None:
                yield images(ahead[0].result()), ahead[1]
            ahead = following
        if ahead is not None:
            yield images(ahead[0].result()), ahead[1]
