"""From settings to the parts of a run: tables, views, method, loaders."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from models.backbone import SMALL_IMAGE, create_backbone
from models.clim import ClimLoss
from models.methods import METHODS, Method, build_method
from models.sizes import Sizes
from pipelines.augment import PRESETS, View
from pipelines.convert import cached_beton
from pipelines.datasets import (
    DATASETS,
    DataFacts,
    data_facts,
    default_val,
    match_classes,
    open_data,
)
from pipelines.decoders import Decoder
from pipelines.decoders.build import build_decoder, choose_loader
from pipelines.decoders.dali import GpuDecoder
from pipelines.decoders.memory import MemoryDecoder
from pipelines.label_free import LABEL_FREE, LabelFree
from pipelines.loader import Centre, Loader, evaluation_batches
from pipelines.mixtures import UN_MIX, Mixture, create_mixture
from pipelines.neighbours import Neighbours
from pipelines.order import Blocks, Order
from pipelines.published import Split
from pipelines.resolution import MultiScale, Progressive, Resolution, parse_schedule, with_side
from pipelines.table import Beton, Table
from tools.run import checkpoint
from tools.run.agree import each_machine_s_first
from tools.run.config import Config, flag
from tools.run.flags import from_dict
from tools.run.launch import cores_per_process

log = logging.getLogger(__name__)

SMALL_VIEWS = {
    **dict.fromkeys(("moco", "simclr", "byol", "barlow", "vicreg", "moco-v3"), "cifar"),
    **dict.fromkeys(("swav", "dino"), "swav-cifar"),
    "simsiam": "simsiam-cifar",
}
"""The published augmentations for images up to ``SMALL_IMAGE`` pixels, where they differ."""


@dataclass(frozen=True)
class Data:
    """The images of a run, and what is known of them."""

    train: Table
    val: Table | None
    facts: DataFacts


def open_data_of(config: Config, accelerator: Accelerator) -> Data:
    """Open the training and validation tables; one process of each machine fills the caches first.

    Raises:
        ValueError: a data set is missing or damaged, or the two have different classes.
    """
    options: dict[str, Any] = {"on_bad": config.on_bad_image, "classes_file": config.classes}

    def opened(spec: str, split: Split) -> Table:
        table = open_data(spec, config.data_dir, split, **options)
        if choose(config, table, accelerator.device)[0] == "ffcv":
            table = cached_beton(table, spec, split=split, on_bad=config.on_bad_image)
        return table

    def both() -> Data:
        train = opened(config.data, "train")
        spec = config.val_data or default_val(config.data)
        val = None
        if spec is not None and spec != "none":
            val = match_classes(opened(spec, "val"), train)
        return Data(train, val, data_facts(config.data))

    return each_machine_s_first(accelerator, both)


def choose(config: Config, table: Table, device: torch.device) -> tuple[str, str]:
    """Return the loader of a table and the reason for it."""
    if config.loader != "auto":
        return config.loader, "--loader"
    budget = int(config.memory_budget * 2**30)
    return choose_loader(table, device, budget, data_is_beton=isinstance(table.source, Beton))


def resolve(config: Config, data: Data, precision: str) -> Config:
    """Fill in what the settings leave to the method, the data set and the launcher.

    Raises:
        ValueError: the settings do not fit the data; the text names the flags.
    """
    defaults = METHODS[config.method][0].defaults
    first = config.resolutions[0] if config.resolutions else None
    size = config.image_size or first or data.facts.image_size
    small = size <= SMALL_IMAGE
    peak = config.lr
    if peak is None:
        peak = defaults.lr_per_256 * config.batch_size / 256
    filled: dict[str, Any] = {
        "image_size": size,
        "views": config.views or ((small and SMALL_VIEWS.get(config.method)) or defaults.views),
        "bn": config.bn or defaults.bn,
        "precision": precision,
        "optimizer": config.optimizer or defaults.optimizer,
        "lr": peak,
        "final_lr": _either(config.final_lr, defaults.final_lr_ratio * peak),
        "weight_decay": _either(config.weight_decay, defaults.weight_decay),
        "decay": config.decay or ("all" if defaults.decay_norm_and_bias else "weights"),
        "momentum": _either(config.momentum, defaults.momentum),
        "warmup_epochs": _either(config.warmup_epochs, defaults.warmup_epochs),
        "schedule": config.schedule or defaults.schedule,
    }
    if config.backbone == "auto":
        filled["backbone"] = "resnet18" if size <= 96 else "resnet50"
        if data.facts is DATASETS["photos"]:  # what two cores train in minutes
            filled["backbone"] = "resnet10t"
            filled["stem"] = "standard" if config.stem == "auto" else config.stem
    return dataclasses.replace(config, **filled)


def _either(given: float | None, default: float) -> float:
    return default if given is None else given


def views_of(config: Config) -> tuple[View, ...]:
    """Return the views of resolved settings, the largest with the largest side they ever have.

    Raises:
        ValueError: the largest views would at times be smaller than others.
    """
    views = _published_or_asked(config)
    again = sizes_of(config).copies(len(views)) if config.resolutions else {}
    sides = [side for side in config.resolutions[1:] for _ in sizes_of(config).queries]
    copies = zip(again.values(), sides, strict=True)
    views += tuple(dataclasses.replace(views[v], size=side) for v, side in copies)
    resolution = resolution_of(config, 1)
    if resolution is None:
        return views
    least, most = resolution.sides
    smaller = sorted({view.size for view in views})[:-1]
    if smaller and least < smaller[-1]:
        raise ValueError(
            f"{flag('multi_scale' if config.multi_scale else 'resolution_schedule')}: the largest "
            f"views would have {least} pixels, fewer than the {smaller[-1]} of smaller ones"
        )
    return with_side(views, most)


def sizes_of(config: Config) -> Sizes:
    """Return the sides at which queries are shown."""
    queries = METHODS[config.method][0].queries(config.chosen)
    return Sizes(queries, max(len(config.resolutions), 1), config.resolution_reduce)


def copies_of(config: Config) -> dict[int, int]:
    """Return which views show another one again at another side."""
    return sizes_of(config).copies(len(_published_or_asked(config)))


def mixed_of(config: Config, method: Method) -> tuple[int, ...]:
    """Return the views that are mixed, each before its copies at other sides."""
    if config.mix not in (*UN_MIX, "clim"):
        return ()
    base = method.mixed_views(len(_published_or_asked(config)))
    return (*base, *(v for v, of in copies_of(config).items() if of in base))


def resolution_of(config: Config, steps_per_epoch: int) -> Resolution | None:
    """Return the side of the largest views as a function of the step, if it changes."""
    if config.resolution_schedule is not None:
        first, last = parse_schedule(config.resolution_schedule)
        return Progressive(first, last, config.epochs, steps_per_epoch)
    return MultiScale(config.multi_scale, config.seed) if config.multi_scale else None


def _published_or_asked(config: Config) -> tuple[View, ...]:
    """The preset's views, or as many as ``--crops`` asks for."""
    assert config.views and config.image_size
    preset = PRESETS[config.views](config.image_size)
    if not config.crops:
        return preset
    views: list[View] = []
    scales = list(zip(config.crop_scales[::2], config.crop_scales[1::2], strict=True))
    for count, size, scale in zip(config.crops, config.crop_sizes, scales, strict=True):
        for _ in range(count):
            base = preset[len(views) % len(preset)]
            views.append(dataclasses.replace(base, size=size, scale=scale))
    return tuple(views)


def order_of(config: Config, data: Data, rank: int = 0, world_size: int = 1) -> Order:
    """Return which rows each step holds."""
    blocks = None
    if config.order == "blocks":
        sequence = data.train.in_file_order()
        blocks = Blocks(sequence, config.groups, config.block_rows, config.window_blocks)
    return Order(len(data.train), config.batch_size, config.seed, rank, world_size, blocks)


def check_sharing(config: Config, processes: int) -> None:
    """Refuse batches that cannot be shared out, before any work.

    Raises:
        ValueError: naming the flags to change.
    """
    batch, groups = config.batch_size, config.groups
    if batch % processes:
        raise ValueError(f"--batch-size {batch} cannot be shared by {processes} processes")
    label_free = label_free_of(config)
    in_groups = label_free.in_groups if label_free else config.mix != "none"
    if not in_groups and config.bn == "sync":
        return
    if batch % groups or groups % processes:
        raise ValueError(
            f"--batch-size {batch}, --groups {groups} and {processes} processes do not divide: "
            "groups must share out the batch evenly, and processes the groups"
        )
    if config.mix in UN_MIX and batch // groups % 2:
        raise ValueError(
            f"--batch-size {batch} in --groups {groups} makes groups of {batch // groups}: "
            "mixtures pair the rows of a group, so their number must be even"
        )


def label_free_of(config: Config) -> LabelFree | None:
    """Return what edits the views without touching targets, if the mixture is of that kind."""
    return LabelFree(config.mix, config.im) if config.mix in LABEL_FREE else None


def check_mixture(config: Config, num_rows: int) -> None:
    """Refuse mixtures where there is no loss for them, and more neighbours than images.

    Raises:
        ValueError: naming the flags.
    """
    if config.mix in UN_MIX and not METHODS[config.method][0].un_mix:
        raise ValueError(
            f"--mix {config.mix} has no meaning for --method {config.method}: nobody has published "
            "what a memory bank's negatives weigh for a mixture, nor which row is to move towards "
            "it. Mixtures that leave the targets alone are defined (Shen 2020): --mix im-region"
        )
    if config.mix_draw == "group" and not METHODS[config.method][0].mixes_groups:
        raise ValueError(
            f"--mix-draw group: the loss of --method {config.method} looks at the whole batch at "
            "once, so it takes one mixture a step: --mix-draw step"
        )
    if config.mix == "clim" and config.clim.neighbours >= num_rows:
        raise ValueError(
            f"--clim.neighbours {config.clim.neighbours} needs more than {num_rows} images"
        )


def create_method(config: Config, steps_per_epoch: int, facts: DataFacts, num_rows: int) -> Method:
    """Build the method of resolved settings, weights drawn from the seed.

    ``facts`` and ``num_rows`` are those of the images it is, or was, trained on.
    """
    assert config.image_size and config.bn
    torch.manual_seed(config.seed)
    create = partial(
        create_backbone,
        config.backbone,
        config.image_size,
        config.stem,
        zero_init_last=config.zero_init_last,
    )
    return build_method(
        config.method,
        config.chosen,
        METHODS[config.method][0].build_backbone(config.chosen, create),
        bn=config.bn,
        group_size=config.batch_size // config.groups,
        batch_size=config.batch_size,
        seed=config.seed,
        steps_per_epoch=steps_per_epoch,
        num_views=len(_published_or_asked(config)),
        num_rows=num_rows,
        mean=facts.mean,
        std=facts.std,
        clim=clim_loss(config),
        sizes=sizes_of(config) if config.resolutions else None,
    )


def clim_loss(config: Config) -> ClimLoss | None:
    """Return how CLIM's terms are weighted, if the mixture is CLIM's."""
    if config.mix != "clim":
        return None
    return ClimLoss(config.clim.mode, config.clim.weight, config.clim.denominator)


def assemble(config: Config, data: Data, accelerator: Accelerator) -> tuple[Config, Order, Method]:
    """Return the resolved settings, which rows each step holds, and the method, if all fit.

    Raises:
        ValueError: they do not, before any work; the text names the flags.
    """
    config = resolve(config, data, accelerator.mixed_precision)
    order = order_of(config, data)
    check_sharing(config, accelerator.num_processes)
    check_mixture(config, len(data.train))
    method = create_method(config, order.steps_per_epoch, data.facts, len(data.train))
    return config, order, method


def gpu_decoder(config: Config) -> GpuDecoder:
    """Return what the settings say about DALI's decoder on a GPU."""
    return GpuDecoder(
        config.dali_device_memory_padding,
        config.dali_host_memory_padding,
        config.dali_hw_decoder_load,
    )


class Decoders:
    """Makes a decoder for a table when it is first asked for, and keeps it."""

    def __init__(
        self, config: Config, accelerator: Accelerator, say: Callable[[str], None] = log.info
    ) -> None:
        self._config = config
        self._accelerator = accelerator
        self._say = say
        self._made: dict[int, Decoder] = {}

    def of(self, table: Table) -> Decoder:
        """Return the table's decoder; ``--loader auto`` says what it chose, and why."""
        if id(table) not in self._made:
            self._made[id(table)] = self._make(table)
        return self._made[id(table)]

    def _make(self, table: Table) -> Decoder:
        config, device = self._config, self._accelerator.device
        loader, reason = choose(config, table, device)
        self._say(f"loader {loader} ({reason}) for {len(table):,} images")
        gpu = gpu_decoder(config)
        if gpu.arguments() and not (loader == "dali" and device.type == "cuda"):
            flags = ", ".join(flag(f"dali_{name}") for name in gpu.arguments())
            self._say(f"{flags}: no effect, only --loader dali on a GPU decodes there")
        return build_decoder(
            loader,
            table,
            interpolation=config.interpolation,
            workers=config.workers or cores_per_process(),
            device=device,
            on_bad=config.on_bad_image,
            gpu=gpu,
        )

    def close(self) -> None:
        """Release all decoders."""
        for decoder in self._made.values():
            decoder.close()
        self._made.clear()


def mixture_of(config: Config) -> Mixture | None:
    """Return the mixture that meets two targets, if there is one."""
    if config.mix == "clim":
        return Mixture(float(config.clim.kind == "mixup"), config.clim.alpha)
    return create_mixture(config.mix, config.mix_prob, config.mix_beta)


def training_loader(
    config: Config, data: Data, decoders: Decoders, method: Method, accelerator: Accelerator
) -> Loader:
    """Build the loader of this process's share of each batch."""
    views, decoder = views_of(config), decoders.of(data.train)
    order = order_of(config, data, accelerator.process_index, accelerator.num_processes)
    return Loader(
        table=data.train,
        order=order,
        views=views,
        decoder=decoder,
        mean=data.facts.mean,
        std=data.facts.std,
        device=accelerator.device,
        mixture=mixture_of(config),
        neighbours=Neighbours.none(len(data.train)) if config.mix == "clim" else None,
        skip_alone=config.clim.fallback == "skip",
        mixed=mixed_of(config, method),
        copies=copies_of(config),
        mix_per_group=config.mix_draw == "group",
        mix_chained=method.chained_lam,
        groups=config.groups,
        prefetch=config.prefetch,
        workers=config.workers or cores_per_process(),
        read_ahead=0 if isinstance(decoder, MemoryDecoder) else config.read_ahead,
        resolution=resolution_of(config, order.steps_per_epoch),
        label_free=label_free_of(config),
    )


def evaluation_batches_of(
    config: Config,
    table: Table,
    facts: DataFacts,
    decoders: Decoders,
    accelerator: Accelerator,
    batch_size: int,
    rows: NDArray[np.int64] | None = None,
    *,
    shared: bool = True,
) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
    """Yield this process's share of a table's rows (default: all) as evaluation views.

    Without ``shared`` the rows are this process's own, all of them.
    """
    rank, world_size = 0, 1
    if shared:
        rank, world_size = accelerator.process_index, accelerator.num_processes
    size = config.image_size or facts.image_size
    resize = facts.eval_resize or facts.image_size
    return evaluation_batches(
        table,
        decoders.of(table),
        Centre(size, round(size * resize / facts.image_size)),
        batch_size,
        facts.mean,
        facts.std,
        accelerator.device,
        rank,
        world_size,
        rows,
    )


def load_run(run: Path, named: Path | None = None) -> tuple[Config, dict[str, Any]]:
    """Return the settings and the state of a run's last checkpoint, or of the one named.

    Raises:
        ValueError: there is no such run or no checkpoint in it.
    """
    path = checkpoint.first_whole(checkpoint.find(named or run))
    state = checkpoint.load(path)
    return from_dict(state["config"], str(path)), state
