"""One step of one rank, from its number to its batch, in stages that can be called separately.

::

    draw      rows and random parameters               host
    decode    bytes to uint8 crops                     host or device
    augment   crops to float views                     device
    assemble  views to a batch, mixed                  device
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.augment.build import build_augmenter
from pipelines.augment.params import ViewParams, draw_params
from pipelines.batch import Batch, Mixed
from pipelines.decoders import Crops, Decoder
from pipelines.mixtures.base import (
    MixPlan,
    MixStep,
    Mixture,
    Recropping,
    Views,
    check_groups,
    windows_of,
)
from pipelines.rng import RowRng
from pipelines.sampler import Sampler
from pipelines.sources.table import Table, check_normalization
from pipelines.system.transfer import copy_stream, to_device
from pipelines.views import View, ViewPlan

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StepDraws:
    """The random parameters of a step, drawn on the host."""

    step: int
    views: tuple[View, ...]
    rows: Rows
    """This rank's rows, (n,)."""
    shown: Rows
    """The rows of each view: the rank's, then a mixture's extra ones, (n + k,)."""
    params: tuple[ViewParams, ...]
    """Augmentation parameters of ``shown``, one for each view."""
    mix: MixPlan | None

    def windows(self) -> list[tuple[View, ViewParams]]:
        """Return all that is cut and augmented: the views, then a mixture's further windows."""
        more = ((window.view, window.params) for window in windows_of(self.mix))
        return [*zip(self.views, self.params, strict=True), *more]


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded step; its copy to the device is complete once ``arrived`` has been recorded."""

    step: int
    rows: Rows
    crops: Sequence[Tensor]
    plans: Sequence[Any]
    mix: MixPlan | None
    arrived: torch.cuda.Event | None


@dataclass
class StepMaker:
    """Makes the batch of any step of a rank: ``finish(decode(step))``.

    On CUDA, ``decode`` works on a side stream and may run in another thread; ``finish`` must run in
    the thread and on the stream of training. ``groups`` is the number of groups of the global
    batch; rows are mixed within each group. ``workers`` is the number of threads that augment on
    the host.

    Raises:
        ValueError: the mixture's groups do not fit the batch or the ranks, or mean and deviation do
            not fit the images' channels.
    """

    table: Table
    sampler: Sampler
    views: ViewPlan
    decoder: Decoder
    mean: Sequence[float]
    std: Sequence[float]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    mixture: Mixture | None = None
    groups: int = 1
    workers: int = 1

    def __post_init__(self) -> None:
        check_groups(self.mixture, self.sampler.batch_size, self.groups, self.sampler.world_size)
        self.stream = copy_stream(self.device)
        check_normalization(self.table, self.mean, self.std)
        rand = any(view.rand_augment[0] for view in self.views.views)
        self.augmenter = build_augmenter(
            self.device, self.workers, self.table.channels, rand_augment=rand
        )

    def draw(self, step: int) -> StepDraws:
        """Draw all random parameters of a step."""
        mixing = self._mix_step(step)
        rows, views = mixing.rows, tuple(mixing.views)
        mix = self.mixture.plan(mixing) if self.mixture else None
        size = self.table.height[rows], self.table.width[rows]
        params = [draw_params(v, i, mixing.rng, rows, *size) for i, v in enumerate(views)]
        if mix is None or len(mix.extra) == 0:
            return StepDraws(step, views, rows, rows, tuple(params), mix)
        shown = np.concatenate([rows, mix.extra])
        both = (_concatenate(own, more) for own, more in zip(params, mix.params, strict=True))
        return StepDraws(step, views, rows, shown, tuple(both), mix)

    def decode(self, step: int) -> Decoded:
        """Draw a step and decode its crops, each distinct image once; copy all to the device."""
        draws = self.draw(step)
        shown, take = draws.shown, np.arange(len(draws.shown))
        if len(shown) > len(draws.rows):
            shown, take = np.unique(shown, return_inverse=True)
        pairs = draws.windows()
        windows = [Crops(view.size, take[: len(p.box)], p.box) for view, p in pairs]
        plans = [self.augmenter.plan(*pair) for pair in pairs]
        if self.stream is None:
            crops = self._crops(shown, windows)
            return Decoded(step, draws.rows, crops, plans, draws.mix, None)
        with torch.cuda.stream(self.stream):  # a GPU decoder works on this stream too
            crops = [c.to(self.device, non_blocking=True) for c in self._crops(shown, windows)]
            plans = [plan.to(self.device) for plan in plans]
            mix = draws.mix.to(self.device) if draws.mix else None
            return Decoded(step, draws.rows, crops, plans, mix, self.stream.record_event())

    def _crops(self, rows: Rows, windows: Sequence[Crops]) -> list[Tensor]:
        with self.table.source.held(rows):
            return self.decoder(rows, windows)

    def finish(self, decoded: Decoded) -> Batch:
        """Augment, mix and label a decoded step."""
        return self.assemble(decoded, self.augment(decoded))

    def augment(self, decoded: Decoded) -> Views:
        """Return the augmented views and windows, before any mixture; the host never waits."""
        if decoded.arrived is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(decoded.arrived)
            owners = [*decoded.plans, *([decoded.mix] if decoded.mix else [])]
            for tensor in (*decoded.crops, *(t for owner in owners for t in owner.tensors())):
                tensor.record_stream(stream)
        todo = zip(decoded.crops, decoded.plans, strict=True)
        return tuple(self.augmenter.augment(c, p, self.mean, self.std) for c, p in todo)

    def assemble(self, decoded: Decoded, views: Views) -> Batch:
        """Mix the augmented views of a step and add labels; ``views`` may be overwritten."""
        mixed: tuple[Mixed, ...] = ()
        targets: Views = ()
        if decoded.mix is not None:
            further = windows_of(decoded.mix)
            if len({window.of for window in further}) > 1:  # one alone is nobody's target
                targets = views[: -len(further)]
            views, mixed = decoded.mix.apply(views)
        rows = decoded.rows
        return Batch(
            views=views,
            index=self._on_device(rows),
            label=self._on_device(self.table.label[rows]),
            position=self._on_device(self.sampler.positions),
            seed=self.sampler.seed,
            step=decoded.step,
            mixed=mixed,
            plain=targets,
        )

    def mix(self, views: Views, step: int) -> tuple[Views, tuple[Mixed, ...]]:
        """Draw a step's mixture and apply it to given views of its rows, for measurements.

        Extra rows and windows that are not given are taken from the views.
        """
        if self.mixture is None:
            return views, ()
        drawn = self._mix_step(step)
        plan = self.mixture.plan(drawn).to(self.device)
        count = len(drawn.rows) + len(plan.extra)
        if len(views[0]) < count:
            place = torch.arange(count, device=self.device) % len(views[0])
            views = tuple(view[place] for view in views)
        return plan.apply((*views, *(views[window.of] for window in windows_of(plan))))

    def read_ahead(self, step: int) -> Rows:
        """Return the extra rows that a step's mixture will show."""
        if self.mixture is None:
            return np.zeros(0, np.int64)
        return self.mixture.read_ahead(self.sampler.rows(step), self._rng(step))

    def _rng(self, step: int) -> RowRng:
        return RowRng(self.sampler.seed, self.sampler.epoch(step))

    def _mix_step(self, step: int) -> MixStep:
        views = self.views.at(step)
        if isinstance(self.mixture, Recropping):
            views = self.mixture.recropped(views, self.views.copies)
        return MixStep(
            seed=self.sampler.seed,
            step=step,
            rng=self._rng(step),
            rows=self.sampler.rows(step),
            positions=self.sampler.positions,
            group=self.sampler.batch_size // self.groups,
            views=views,
            mixed=self.views.mixed,
            copies=self.views.copies,
            table=self.table,
        )

    def _on_device(self, array: Rows) -> Tensor:
        return to_device(torch.from_numpy(array), self.device)


def _concatenate(a: ViewParams, b: ViewParams) -> ViewParams:
    """Return the parameters of the rows of ``a``, then of those of ``b``."""
    pairs = ((getattr(a, f.name), getattr(b, f.name)) for f in fields(ViewParams))
    return ViewParams(*(np.concatenate(pair) for pair in pairs))
