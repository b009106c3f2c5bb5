"""Open the training and validation images of a run."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator

from pipelines.beton.parts import stored_table
from pipelines.data_facts import DATASETS, DataFacts
from pipelines.datasets import default_val, open_data
from pipelines.decoders.build import DecodeMemory, choose_loader, decode_memory
from pipelines.decoders.memory import check_one_size
from pipelines.sources.classes import match_classes
from pipelines.sources.image_file import ImageRules
from pipelines.sources.published import NotDownloaded, Split
from pipelines.sources.shard_members import MemberKeys
from pipelines.sources.stored import InFiles
from pipelines.sources.subset import divide
from pipelines.sources.table import Table
from pipelines.system.progress import print_once
from pipelines.system.workers import cores_per_process
from tools.config.config import Config
from tools.config.images import image_rules, warn_of_late_rules, warn_of_other_range
from tools.config.remote import remote_options
from tools.distributed.coordination import local_main_first
from tools.engine.measured import measured_facts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """The images of a run, and their constants."""

    train: Table
    val: Table | None
    facts: DataFacts
    unconverted: Table | None = None
    """The training images before a conversion, which keeps no file names."""


def open_data_of(config: Config, accelerator: Accelerator, *, download: bool = True) -> Data:
    """Open the training and validation tables; one process of each machine fills the caches first.

    Raises:
        NotDownloaded: a published data set is missing, and ``download`` is off.
        ValueError: a data set is missing or damaged, the two have different classes, or --loader
            memory cannot hold one that the run decodes.
    """
    options: dict[str, Any] = {
        "on_bad": config.on_bad_image,
        "classes_file": config.classes,
        "download": download,
        "keys": MemberKeys(config.image_key, config.label_key),
        "remote": remote_options(config),
    }

    def opened(spec: str, split: Split, rules: ImageRules) -> Table:
        try:
            table = open_data(spec, config.data_dir, split, rules=rules, **options)
        except NotDownloaded:
            raise
        except ValueError as error:
            given = "--data" if split == "train" else "--val-data"
            raise ValueError(f"{given} {spec}: {error}") from error
        warn_of_late_rules(table, rules, spec)
        return table

    def readable(table: Table, spec: str, split: Split) -> Table:
        if config.loader == "memory" and (split == "train" or config.knn_every):
            check_one_size(table)
        if choose(config, table, accelerator.device)[0] == "ffcv":
            table = stored_table(table, spec, split=split, on_bad=config.on_bad_image)
        return table

    def both() -> Data:
        rules = image_rules(config)
        unconverted, val = divide(opened(config.data, "train", rules), config)
        facts = measured_facts(config, unconverted)  # of the files, whatever the loader
        train = readable(unconverted, config.data, "train")
        if val is not None and config.val_data is None:
            if config.data not in DATASETS and default_val(config.data) is not None:
                unused = default_val(config.data)
                print_once(log, f"--val-fraction: its images are scored, and {unused} is not")
            val = readable(val, config.data, "train")
            return Data(train, val, facts, unconverted)
        val = None
        spec = config.val_data or default_val(config.data)
        if spec is not None and spec != "none":
            val = readable(opened(spec, "val", rules.like(train.source.rules)), spec, "val")
            warn_of_other_range(train, val, spec)
            try:
                val = match_classes(val, train)
            except ValueError as error:
                raise ValueError(f"--val-data {spec}: {error}") from error
        return Data(train, val, facts, unconverted)

    return local_main_first(accelerator, both)


def choose(config: Config, table: Table, device: torch.device) -> tuple[str, str]:
    """Return the loader of a table and the reason for it."""
    if config.loader != "auto":
        return config.loader, "--loader"
    budget = int(config.memory_budget * 2**30)
    return choose_loader(table, device, budget, data_is_beton=isinstance(table.source, InFiles))


def is_held(config: Config, table: Table) -> bool:
    """Whether the loader of these images decodes all of them before the first step."""
    return choose(config, table, torch.device("cpu"))[0] == "memory"  # on other devices as well


def decode_bounds(
    config: Config, data: Data, device: torch.device, rows: int
) -> tuple[str, dict[str, DecodeMemory]]:
    """Return the run's loader, and the most memory of decoded images for each loader.

    ``rows`` is this process's share of a batch.
    """
    shown = 2 * rows if config.mix == "clim" else rows  # anchors, then their neighbors
    found = decode_memory(data.train, shown, config.workers or cores_per_process())
    return choose(config, data.train, device)[0], found


def loader_of(config: Config, data: Data, device: torch.device) -> str:
    """Return the loader of both splits; ``auto`` if they do not have the same."""
    tables = [table for table in (data.train, data.val) if table is not None]
    names = {choose(config, table, device)[0] for table in tables}
    return names.pop() if len(names) == 1 else config.loader
