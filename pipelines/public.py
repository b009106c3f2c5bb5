"""The public loader API: ``open_data``, ``build_loader``, ``build_eval_loader``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines import datasets
from pipelines.balance import Balance, balance_of
from pipelines.batch import Batch
from pipelines.beton.convert import cached_beton
from pipelines.datasets import DataFacts, channel_facts, data_facts
from pipelines.decoders import Decoder
from pipelines.decoders.build import LOADERS, build_decoder, choose_loader
from pipelines.decoders.memory import MemoryDecoder
from pipelines.evaluation import CenterCrop, evaluation_batches
from pipelines.loader import Loader
from pipelines.mixtures.base import Mixture, check_groups
from pipelines.mixtures.registry import create_mixture
from pipelines.presets import PRESETS
from pipelines.sampler import BlockShuffle, Sampler
from pipelines.settings import Interpolation, OnBadImage
from pipelines.sources.beton import Beton
from pipelines.sources.files import Files
from pipelines.sources.folder import inspect
from pipelines.sources.image_file import MAX_PIXELS, ImageRules, Pages
from pipelines.sources.published import Split
from pipelines.sources.summary import Summary
from pipelines.sources.table import Table
from pipelines.step_maker import StepMaker
from pipelines.system.cache import cache_root
from pipelines.system.transfer import to_device
from pipelines.system.workers import cores_per_process
from pipelines.views import View, ViewOverrides, ViewPlan


@dataclass(frozen=True)
class Data:
    """An opened data set: its rows, and the constants of its images."""

    table: Table
    facts: DataFacts
    spec: str
    split: Split

    def __len__(self) -> int:
        return len(self.table)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of each row, (N,); -1 is none."""
        return self.table.label

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty if they have none."""
        return self.table.classes

    def summary(self) -> Summary | None:
        """Return the kinds of the files below a folder, and what is left out; None: no folder."""
        source = self.table.source
        if not isinstance(source, Files):
            return None
        return inspect(source.root, cache_root(), rules=source.rules).summary


@dataclass(frozen=True)
class LoaderOptions:
    """How images are read. No option changes which images a step holds."""

    loader: Literal["auto", "memory", "ffcv", "dali"] = "auto"
    """Decoder: a decoded set in memory, a .beton file (converted on first use), or DALI."""
    workers: int | None = None
    """Decoding threads; None: this process's share of the cores."""
    prefetch: int = 3
    """Batches made ahead of the training loop."""
    read_ahead: int = 8
    """Steps whose bytes the operating system is asked to read ahead."""
    memory_budget: int = 4 << 30
    """Bytes of decoded images that ``auto`` may keep in memory."""
    interpolation: Interpolation = "antialias"
    """Filter of the resize; ``antialias`` is PIL's."""
    on_bad_image: OnBadImage = "stop"
    """An unreadable image raises, or the next row takes its place."""


DEFAULTS = LoaderOptions()


def open_data(  # noqa: PLR0913 - a public builder, with an argument for each flag
    spec: str,
    split: Split = "train",
    data_dir: str | Path = "data",
    *,
    classes: str | Path | None = None,
    on_bad_image: OnBadImage = "stop",
    channels: int = 3,
    background: str = "white",
    depth_range: tuple[float, float] | None = None,
    pages: Pages = "first",
    max_pixels: int = MAX_PIXELS,
    like: Data | None = None,
) -> Data:
    """Open a data set.

    Args:
        spec: ``photos``, ``cifar10``, ``cifar100``, ``stl10``, ``tiny-imagenet``, ``folder:PATH``
            or ``PATH.beton``.
        split: ``folder:PATH`` means ``PATH/train`` or ``PATH/val`` where it has them.
        data_dir: folder of the published files of named sets.
        classes: a file of class names, one a line; only these are kept, labelled in this order.
        on_bad_image: what to do with files whose header cannot be read.
        channels: channels of the images: 3 is RGB, 1 gray, others are the bands of the files.
        background: colour behind transparent pixels: ``white``, ``black`` or ``#rrggbb``.
        depth_range: samples that become 0 and 255 in images of more than 8 bits that declare no
            range (default: the range of the set).
        pages: the page or frame of a file that is an image: the first, or each.
        max_pixels: larger images are refused.
        like: training images, whose range and background these get.

    Raises:
        ValueError: there is no such data set, or nothing usable in it.
    """
    file = None if classes is None else Path(classes)
    rules = ImageRules(background, depth_range, pages, channels, max_pixels)
    if like is not None:
        rules = rules.like(like.table.source.rules)
    table = datasets.open_data(
        spec, Path(data_dir), split, on_bad=on_bad_image, classes_file=file, rules=rules
    )
    facts = data_facts(spec)
    if channels in (1, len(facts.mean)):
        return Data(table, channel_facts(facts, channels), spec, split)
    return Data(table, replace(facts, mean=(), std=()), spec, split)


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
    where = _device(device)
    made = create_mixture(mixture) if isinstance(mixture, str) else mixture
    _check_batch(data, batch_size, rank, world_size)
    mean, std = _normalization(data, mean, std)
    plan = _augmented(_view_plan(views, size or data.facts.image_size), augment)
    check_groups(made, batch_size, groups, world_size)
    blocks = order if isinstance(order, BlockShuffle) else None
    weighted = None if balance is None else _balance(balance, data, order)
    table, decoder = _decoder(data, where, options)
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
    where, facts = _device(device), data.facts
    side = size or facts.image_size
    shorter = resize or round(side * (facts.eval_resize or facts.image_size) / facts.image_size)
    if shorter < side:
        raise ValueError(f"resize={shorter} is smaller than size={side}")
    crop = CenterCrop(side, shorter, *_normalization(data, mean, std))
    table, decoder = _decoder(data, where, options)
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


def _device(device: torch.device | str | None) -> torch.device:
    if device is not None:
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _normalization(
    data: Data, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[Sequence[float], Sequence[float]]:
    """Return the given mean and deviation, or the data's."""
    mean, std = mean or data.facts.mean, std or data.facts.std
    if not len(mean) == len(std) == data.table.channels:
        raise ValueError(
            f"mean has {len(mean)} values and std {len(std)}, and the images have "
            f"{data.table.channels} channels: pass mean= and std= with one value for each; "
            "pixel_statistics(data.table) measures them"
        )
    return mean, std


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


def _decoder(data: Data, device: torch.device, options: LoaderOptions) -> tuple[Table, Decoder]:
    """Return the table that the decoder reads, and the decoder."""
    table, name = data.table, str(options.loader)
    if name == "auto":
        is_beton = isinstance(table.source, Beton)
        name, _ = choose_loader(table, device, options.memory_budget, data_is_beton=is_beton)
    if name not in LOADERS:
        raise ValueError(f"loader={name!r}: choose auto or one of {', '.join(LOADERS)}")
    if name == "ffcv":
        table = cached_beton(table, data.spec, split=data.split, on_bad=options.on_bad_image)
    decoder = build_decoder(
        name,
        table,
        interpolation=options.interpolation,
        workers=options.workers or cores_per_process(),
        device=device,
        on_bad=options.on_bad_image,
    )
    return table, decoder
