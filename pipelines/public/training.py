"""``build_loader``: random views of every row, epoch after epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.balance import Balance, balance_of
from pipelines.batch import Batch
from pipelines.decoders.memory import MemoryDecoder
from pipelines.loader import Loader
from pipelines.mixtures.base import Mixture, check_groups
from pipelines.mixtures.registry import create_mixture
from pipelines.presets import PRESETS
from pipelines.public.data import Data
from pipelines.public.options import (
    DEFAULTS,
    LoaderOptions,
    choose_device,
    make_decoder,
    normalization_of,
)
from pipelines.sampler import BlockShuffle, Sampler
from pipelines.step_maker import StepMaker
from pipelines.system.workers import cores_per_process
from pipelines.views import View, ViewOverrides, ViewPlan


def build_loader(  # noqa: PLR0913 - a public builder, like torch.utils.data.DataLoader
    data: Data,
    views: str | Sequence[View] | ViewPlan = "moco-v2",
    batch_size: int = 256,
    *,
    size: int | None = None,
    mixture: str | Mixture | None = None,
    groups: int = 1,
    order: Literal["random", "blocks"] | BlockShuffle = "random",
    augment: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    balance: str | Path | NDArray[np.float64] | None = None,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    options: LoaderOptions = DEFAULTS,
) -> EpochLoader:
    """Build an iterable of a rank's batches; each ``for`` loop over it is an epoch.

    Args:
        data: from ``open_data``.
        views: the name of a published augmentation, or a list of one or more views.
        batch_size: images of a step over all ranks.
        size: side in pixels of a published augmentation's large views (default: the data's).
        mixture: a name such as ``unmix``, ``region`` or ``im``, or an object. ``Batch.mixed`` holds
            mixtures of the first view (with a ``ViewPlan``, of its ``mixed`` views).
        groups: number of groups of the global batch; rows are mixed within each group.
        order: shuffle row by row, or by blocks of adjacent rows (for data larger than memory).
        augment: numbers that replace those of ``views``, as ``{"flip": 0.0, "rotate90": 1.0}``: the
            names of ``ViewOverrides``, for all views, or a list with one mapping a view.
        balance: draw rows by weight: ``class``, a file of weights, or an array (N,). An image is
            then in a step at most once, but may be in several steps of an epoch.
        seed: seed of all random numbers; seed and step determine a batch.
        rank: rank of this process.
        world_size: number of processes.
        device: device of the batches (default: the current CUDA device, else the host).
        mean: mean of each channel, of pixels in [0, 1] (default: the data's published one, which
            images of 2, 4 or more channels lack; ``pixel_statistics(data.table)`` measures it).
        std: standard deviation of each channel, likewise.
        options: how images are read.

    Raises:
        ValueError: the arguments do not fit each other or the data; the text names them.
        MissingPackage: ``options.loader`` needs a package that is not installed.
    """
    if mixture == "clim":
        raise ValueError("mixture='clim' needs a table of neighbors: pass a Clim(NeighborTable)")
    if order not in ("random", "blocks") and not isinstance(order, BlockShuffle):
        raise ValueError(f"order={order!r}: choose random or blocks, or pass a BlockShuffle")
    where = choose_device(device)
    made = create_mixture(mixture) if isinstance(mixture, str) else mixture
    _check_batch(data, batch_size, rank, world_size)
    mean, std = normalization_of(data, mean, std)
    plan = _augmented(_view_plan(views, size or data.facts.image_size), augment)
    check_groups(made, batch_size, groups, world_size)
    blocks = order if isinstance(order, BlockShuffle) else None
    weighted = None if balance is None else _balance(balance, data, order)
    table, decoder = make_decoder(data, where, options)
    if order == "blocks":
        blocks = BlockShuffle(table.in_file_order(), groups)
    maker = StepMaker(
        table=table,
        sampler=Sampler(len(table), batch_size, seed, rank, world_size, blocks, weighted),
        views=plan,
        decoder=decoder,
        mean=mean,
        std=std,
        device=where,
        mixture=made,
        groups=groups,
        workers=options.workers or cores_per_process(),
    )
    read_ahead = 0 if isinstance(decoder, MemoryDecoder) else options.read_ahead
    return EpochLoader(Loader(maker, options.prefetch, read_ahead))


class EpochLoader:
    """An endless sequence of epochs of batches, one for each ``for`` loop.

    A loop runs to the end of the epoch that ``step`` is in. If a loop is left early, the next one
    continues after the last batch yielded.
    """

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self.step = 0
        """The step of the next batch, counted from the start of the run."""

    def __len__(self) -> int:
        return self._sampler.steps_per_epoch

    @property
    def device(self) -> torch.device:
        """Device of the batches."""
        return self.loader.maker.device

    @property
    def epoch(self) -> int:
        """The epoch of the next batch."""
        return self._sampler.epoch(self.step)

    @property
    def _sampler(self) -> Sampler:
        return self.loader.maker.sampler

    def __iter__(self) -> Iterator[Batch]:
        stop = (self.epoch + 1) * len(self)
        with closing(self.loader.batches(self.step, stop)) as batches:
            for batch in batches:
                self.step = batch.step + 1
                yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the position in the data, the same on all ranks."""
        return {"step": self.step} | self._identity()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at a saved position, on any number of ranks, with the same next rows.

        Raises:
            ValueError: seed, batch size or data differ, so that the rows would differ.
        """
        changed = [
            f"{name} {value}, not {state.get(name, 0)}"
            for name, value in self._identity().items()
            if state.get(name, 0) != value
        ]
        if changed:
            raise ValueError(f"state_dict of another loader: this one has {'; '.join(changed)}")
        self.step = int(state["step"])

    def _identity(self) -> dict[str, int]:
        sampler = self._sampler
        return {
            "seed": sampler.seed,
            "batch_size": sampler.batch_size,
            "num_rows": sampler.num_rows,
            "balance": 0 if sampler.balance is None else sampler.balance.key,
        }

    def close(self) -> None:
        """Release threads and memory."""
        self.loader.maker.decoder.close()

    def __enter__(self) -> EpochLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_batch(data: Data, batch_size: int, rank: int, world_size: int) -> None:
    if not 1 <= batch_size <= len(data):
        raise ValueError(f"batch_size={batch_size} does not fit {len(data)} images")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank={rank} is not one of world_size={world_size} processes")
    if batch_size % world_size:
        raise ValueError(f"batch_size={batch_size} is not divisible by world_size={world_size}")


def _view_plan(views: str | Sequence[View] | ViewPlan, size: int) -> ViewPlan:
    if isinstance(views, ViewPlan):
        return views
    if isinstance(views, str):
        if views not in PRESETS:
            raise ValueError(f"views={views!r}: choose from {', '.join(PRESETS)}, or pass Views")
        return ViewPlan(PRESETS[views](size))
    if not views:
        raise ValueError("views=[]: a batch needs at least one View")
    return ViewPlan(tuple(views))


def _augmented(
    plan: ViewPlan, augment: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
) -> ViewPlan:
    """Return the plan with other numbers, for all views or for each."""
    if augment is None:
        return plan
    each = [augment] * len(plan.views) if isinstance(augment, Mapping) else augment
    if len(each) != len(plan.views):
        raise ValueError(f"augment: {len(each)} mappings for {len(plan.views)} views")
    known = [field.name for field in fields(ViewOverrides)]
    for name in (name for numbers in each for name in numbers):
        if name not in known:
            raise ValueError(f"augment: {name!r} is not one of {', '.join(known)}")
    changed = (replace(view, **numbers) for view, numbers in zip(plan.views, each, strict=True))
    return replace(plan, views=tuple(changed))


def _balance(balance: str | Path | NDArray[np.float64], data: Data, order: object) -> Balance:
    if order != "random":
        raise ValueError(f"balance draws single rows: it needs order='random', not {order!r}")
    if isinstance(balance, str | Path):
        return balance_of(str(balance), data.labels, data.table.source)
    weights = np.asarray(balance, np.float64)
    if weights.shape != (len(data),) or not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(
            f"balance: {weights.shape} weights for {len(data)} images; each must be 0 or more"
        )
    return Balance(weights)
