"""Table, Order, Draws, decoder and finisher in a row: steps in, batches out.

The decoder runs ahead of the step in a thread of its own. On the host the views are finished there
as well; on CUDA the crops cross on a side stream out of pinned memory while the last step computes,
and are finished on the training stream. A batch that cannot be made raises; none is dropped, so an
epoch is never short.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.augment.cpu import HostFinisher
from pipelines.augment.params import draw_params
from pipelines.augment.reference import AugmentPlan
from pipelines.augment.triton import FusedPlan as FusedPlan
from pipelines.augment.triton import device_finisher
from pipelines.batch import Batch
from pipelines.decoders import Crops, Decoder
from pipelines.mixtures.clim import (
    NeighborTable,
    RandomNeighbors,
    concatenate_params,
    draw_neighbors,
    mix_neighbors,
)
from pipelines.mixtures.image_mixture import Edits, ImageMixture
from pipelines.mixtures.unmix import Mixture, mix_views
from pipelines.read_ahead import ReadAhead
from pipelines.resolution import Resolution
from pipelines.rng import RowRng
from pipelines.sampler import Sampler
from pipelines.sources.table import Table
from pipelines.system.transfer import to_device
from pipelines.views import View, with_side


@dataclass(frozen=True, slots=True)
class _Ready:
    """A decoded step, on its way to the device."""

    step: int
    rows: NDArray[np.int64]
    alone: NDArray[np.bool_] | None
    crops: list[Tensor]
    plans: list[AugmentPlan] | list[FusedPlan]
    edits: list[Edits]
    arrived: torch.cuda.Event


@dataclass
class Loader:
    """Batches of a rank for any range of steps; ``waited`` counts seconds spent waiting for them.

    ``groups`` is the number of groups of the whole batch inside which rows are mixed;
    ``mixed`` the views that ``mixture`` mixes; ``mix_per_group`` draws one mixture a group,
    ``mix_chained`` each view's box from the share left by the one before, ``copies`` that of a view
    from another one's that shows the same at another side;
    ``workers`` the threads that finish views on the host; ``read_ahead`` the steps whose bytes are
    asked for while an earlier one is decoded; ``resolution`` gives the largest views another side;
    ``label_free`` edits all views before anything else sees them. With ``neighbours`` each view
    holds the anchors, then their neighbours, and ``mixture`` mixes the two; ``skip_alone`` leaves
    anchors without neighbours as they are.
    """

    table: Table
    order: Sampler
    views: Sequence[View]
    decoder: Decoder
    mean: Sequence[float]
    std: Sequence[float]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    mixture: Mixture | None = None
    mixed: Sequence[int] = (0,)
    mix_per_group: bool = False
    mix_chained: bool = False
    copies: Mapping[int, int] = field(default_factory=dict)
    groups: int = 1
    prefetch: int = 3
    workers: int = 1
    read_ahead: int = 0
    resolution: Resolution | None = None
    label_free: ImageMixture | None = None
    neighbours: NeighborTable | RandomNeighbors | None = None
    skip_alone: bool = False
    waited: float = 0.0

    def __post_init__(self) -> None:
        size = self.order.batch_size
        pairs = self.mixture or self.label_free
        if size % self.groups or (pairs and self.groups % self.order.world_size):
            raise ValueError(
                f"--batch-size {size}, {self.groups} groups to mix in (--mix-groups or --groups) "
                f"and {self.order.world_size} processes: the groups must divide the batch and the "
                "processes the groups"
            )
        if self.mixture and self.neighbours is None and (size // self.groups) % 2:
            raise ValueError(
                f"--batch-size {size} in {self.groups} groups (--mix-groups or --groups) makes odd "
                "groups: rows are mixed in pairs"
            )
        self._side = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._host = HostFinisher(self.workers)  # its threads start with its first view
        self._plan, self._finish_view = device_finisher()

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield the batches of steps ``start`` to ``stop - 1`` of the run, each with its number."""
        beside = self._beside if self.neighbours is not None else None
        reader = ReadAhead(self.table.source, self.order, start, stop, self.read_ahead, beside)
        with contextlib.closing(reader), ThreadPoolExecutor(1, "unmix-prefetch") as pool:
            ahead: deque = deque()
            todo = iter(range(start, stop))
            try:
                for step in todo:
                    reader.during(step)
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

    def views_of(self, step: int) -> Sequence[View]:
        """Return the settings of a step's views."""
        if self.resolution is None:
            return self.views
        return with_side(self.views, self.resolution.side(step))

    def _prepare(self, step: int) -> Batch | _Ready:
        """Decode a step; without a device to hand it to, finish it here as well."""
        rows, settings = self.order.rows(step), self.views_of(step)
        draws = RowRng(self.order.seed, self.order.epoch(step))
        edits = self._edits(draws, rows, settings)
        shown = np.concatenate([rows, edits[0].extra]) if edits else rows
        height, width = self.table.height[shown], self.table.width[shown]
        drawn = [draw_params(v, i, draws, shown, height, width) for i, v in enumerate(settings)]
        alone = None
        if self.neighbours is not None:
            others, beside = draw_neighbors(self.neighbours, rows, draws, settings, self.table)
            drawn = [
                concatenate_params(own, other) for own, other in zip(drawn, beside, strict=True)
            ]
            shown, alone = np.concatenate([rows, others]), rows == others
        wanted, take = shown, np.arange(len(shown))
        if len(shown) > len(rows):  # each image is decoded once
            wanted, take = np.unique(shown, return_inverse=True)
        windows = [Crops(v.size, take, d.box) for v, d in zip(settings, drawn, strict=True)]
        if self._side is None:
            todo = zip(self.decoder(wanted, windows), settings, drawn, strict=True)
            views = [self._host(*each, self.mean, self.std) for each in todo]
            return self._batch(step, rows, alone, views, edits)
        plans = [self._plan(v, d) for v, d in zip(settings, drawn, strict=True)]
        with torch.cuda.stream(self._side):  # decoding on the device happens there as well
            crops = self.decoder(wanted, windows)
            crops = [c.to(self.device, non_blocking=True) for c in crops]
            plans = [p.to(self.device) for p in plans]
            edits = [e.to(self.device) for e in edits]
            return _Ready(step, rows, alone, crops, plans, edits, self._side.record_event())

    def _beside(self, step: int) -> NDArray[np.int64]:
        """The rows of a step's neighbours."""
        assert self.neighbours is not None
        draws = RowRng(self.order.seed, self.order.epoch(step))
        return self.neighbours.draw(self.order.rows(step), draws)

    def _edits(
        self, draws: RowRng, rows: NDArray[np.int64], settings: Sequence[View]
    ) -> list[Edits]:
        """What label-free mixtures do to each view, drawn on the host once for each side."""
        if self.label_free is None:
            return []
        group = self.order.batch_size // self.groups
        make = partial(self.label_free.plan, draws, rows, group, len(self.table))
        made = {side: make(side) for side in {view.size for view in settings}}
        return [made[view.size] for view in settings]

    def _finish(self, ready: _Ready) -> Batch:
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(ready.arrived)
        moved = (t for p in (*ready.plans, *ready.edits) for t in p.tensors())
        for tensor in (*ready.crops, *moved):
            tensor.record_stream(stream)
        todo = zip(ready.crops, ready.plans, strict=True)
        views = [self._finish_view(c, p, self.mean, self.std) for c, p in todo]
        return self._batch(ready.step, ready.rows, ready.alone, views, ready.edits)

    def _batch(
        self,
        step: int,
        rows: NDArray[np.int64],
        alone: NDArray[np.bool_] | None,
        views: list[Tensor],
        edits: list[Edits],
    ) -> Batch:
        if edits:
            views = [edit(view) for edit, view in zip(edits, views, strict=True)]
        return Batch(
            views=tuple(views),
            index=self._on_device(rows),
            label=self._on_device(self.table.label[rows]),
            position=self._on_device(self.order.positions),
            seed=self.order.seed,
            step=step,
            mixed=self._mix(views, step, alone),
        )

    def _mix(
        self, views: Sequence[Tensor], step: int, alone: NDArray[np.bool_] | None = None
    ) -> tuple:
        """Mix the finished views; no anchor is ``alone`` unless it is said."""
        if self.mixture is None:
            return ()
        group = self.order.batch_size // self.groups
        first = int(self.order.positions[0]) // group if self.mix_per_group else None
        if self.neighbours is not None:
            nobody = np.zeros(len(self.order.positions), bool)
            own = self._on_device(nobody if alone is None else alone)
            mix = partial(
                mix_neighbors,
                self.mixture,
                seed=self.order.seed,
                step=step,
                skip=self.skip_alone,
                group=group if self.mix_per_group else None,
                first_group=first or 0,
            )
            return tuple(mix(views[v], own, number=v) for v in self.mixed)
        return mix_views(
            self.mixture,
            views,
            self.mixed,
            seed=self.order.seed,
            step=step,
            group=group,
            first_group=first,
            chained=self.mix_chained,
            copies=self.copies,
        )

    def _on_device(self, array: NDArray[np.int64] | NDArray[np.bool_]) -> Tensor:
        return to_device(torch.from_numpy(array), self.device)
