"""From settings to the parts of a run: tables, views, method, loaders."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from models.backbone import SMALL_IMAGE, create_backbone
from models.methods import METHODS, Method, build_method
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
from pipelines.loader import Centre, Loader, evaluation_batches
from pipelines.mixtures import create_mixture
from pipelines.order import Order
from pipelines.published import Split
from pipelines.table import Beton, Table
from tools.run import checkpoint
from tools.run.config import Config
from tools.run.flags import from_dict
from tools.run.launch import cores_per_process

log = logging.getLogger(__name__)

SMALL_VIEWS = {"moco": "cifar", "simclr": "cifar", "byol": "cifar", "swav": "swav-cifar"}
"""The published augmentations for images up to ``SMALL_IMAGE`` pixels."""


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

    with accelerator.local_main_process_first():
        train = opened(config.data, "train")
        spec = config.val_data or default_val(config.data)
        val = None
        if spec is not None and spec != "none":
            val = match_classes(opened(spec, "val"), train)
    return Data(train, val, data_facts(config.data))


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
    size = config.image_size or data.facts.image_size
    small = size <= SMALL_IMAGE
    peak = config.lr
    if peak is None:
        peak = defaults.lr_per_256 * config.batch_size / 256
    filled: dict[str, Any] = {
        "image_size": size,
        "views": config.views or (SMALL_VIEWS[config.method] if small else defaults.views),
        "bn": config.bn or defaults.bn,
        "precision": precision,
        "optimizer": config.optimizer or defaults.optimizer,
        "lr": peak,
        "final_lr": _either(config.final_lr, defaults.final_lr_ratio * peak),
        "weight_decay": _either(config.weight_decay, defaults.weight_decay),
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
    """Return the views of resolved settings: the preset's, or as many as ``--crops`` asks for."""
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
    return Order(len(data.train), config.batch_size, config.seed, rank, world_size)


def check_sharing(config: Config, processes: int) -> None:
    """Refuse batches that cannot be shared out, before any work.

    Raises:
        ValueError: naming the flags to change.
    """
    batch, groups = config.batch_size, config.groups
    if batch % processes:
        raise ValueError(f"--batch-size {batch} cannot be shared by {processes} processes")
    if config.mix == "none" and config.bn == "sync":
        return
    if batch % groups or groups % processes:
        raise ValueError(
            f"--batch-size {batch}, --groups {groups} and {processes} processes do not divide: "
            "groups must share out the batch evenly, and processes the groups"
        )
    if config.mix != "none" and batch // groups % 2:
        raise ValueError(
            f"--batch-size {batch} in --groups {groups} makes groups of {batch // groups}: "
            "mixtures pair the rows of a group, so their number must be even"
        )


def create_method(config: Config, steps_per_epoch: int) -> Method:
    """Build the method of resolved settings, weights drawn from the seed."""
    assert config.image_size and config.bn
    torch.manual_seed(config.seed)
    backbone = create_backbone(
        config.backbone, config.image_size, config.stem, zero_init_last=config.zero_init_last
    )
    return build_method(
        config.method,
        config.chosen,
        backbone,
        bn=config.bn,
        group_size=config.batch_size // config.groups,
        batch_size=config.batch_size,
        seed=config.seed,
        steps_per_epoch=steps_per_epoch,
        num_views=len(views_of(config)),
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
        return build_decoder(
            loader,
            table,
            interpolation=config.interpolation,
            workers=config.workers or cores_per_process(),
            device=device,
            on_bad=config.on_bad_image,
        )

    def close(self) -> None:
        """Release all decoders."""
        for decoder in self._made.values():
            decoder.close()
        self._made.clear()


def training_loader(
    config: Config, data: Data, decoders: Decoders, method: Method, accelerator: Accelerator
) -> Loader:
    """Build the loader of this process's share of each batch."""
    views = views_of(config)
    return Loader(
        table=data.train,
        order=order_of(config, data, accelerator.process_index, accelerator.num_processes),
        views=views,
        decoder=decoders.of(data.train),
        mean=data.facts.mean,
        std=data.facts.std,
        device=accelerator.device,
        mixture=create_mixture(config.mix, config.mix_prob, config.mix_beta),
        mixed=method.mixed_views(len(views)),
        mix_per_group=config.mix_draw == "group",
        groups=config.groups,
        workers=config.workers or cores_per_process(),
    )


def evaluation_batches_of(
    config: Config,
    table: Table,
    facts: DataFacts,
    decoders: Decoders,
    accelerator: Accelerator,
    batch_size: int,
    rows: NDArray[np.int64] | None = None,
) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
    """Yield this process's share of a table's rows (default: all) as evaluation views."""
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
        accelerator.process_index,
        accelerator.num_processes,
        rows,
    )


def load_run(run: Path, named: Path | None = None) -> tuple[Config, dict[str, Any]]:
    """Return the settings and the state of a run's last checkpoint, or of the one named.

    Raises:
        ValueError: there is no such run or no checkpoint in it.
    """
    path = checkpoint.find(named or run)
    state = checkpoint.load(path)
    return from_dict(state["config"], str(path)), state
