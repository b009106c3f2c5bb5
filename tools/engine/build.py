"""Build the parts of a run from its settings: tables, views, method, loaders."""

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

from models.methods import METHODS, Method, build_method
from models.methods.base import Setup
from models.modules.backbone import create_backbone
from pipelines.balance import Balance, weights_of
from pipelines.beton.convert import cached_beton
from pipelines.datasets import DataFacts, data_facts, default_val, match_classes, open_data
from pipelines.decoders import Decoder
from pipelines.decoders.build import build_decoder, choose_loader
from pipelines.decoders.dali import GpuDecoder
from pipelines.decoders.memory import MemoryDecoder
from pipelines.evaluation import CenterCrop, evaluation_batches
from pipelines.loader import Loader
from pipelines.sampler import BlockShuffle, Sampler
from pipelines.sources.beton import Beton
from pipelines.sources.image_file import ImageRules
from pipelines.sources.published import NotDownloaded, Split
from pipelines.sources.subset import take_subset
from pipelines.sources.table import Table
from pipelines.step_maker import StepMaker
from tools.config.cli import from_saved
from tools.config.config import Config, ResolvedConfig, flag
from tools.config.images import image_rules, rules_like, with_measured_range
from tools.config.init import arguments
from tools.config.mixture import clim_loss, mixture_of
from tools.config.resolve import check, check_neighbours, resolve, resolved
from tools.config.view_plan import base_views, sizes_of, view_plan
from tools.distributed.coordination import local_main_first
from tools.distributed.launch import cores_per_process
from tools.engine.architecture import freeze_patch_embed, name_architecture, refuse_views
from tools.engine.measured import measured_facts
from tools.runs import checkpoint

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """The images of a run, and their constants."""

    train: Table
    val: Table | None
    facts: DataFacts
    weights: NDArray[np.float64] | None = None
    """Weights of the training images; None: all alike."""


def open_data_of(config: Config, accelerator: Accelerator, *, download: bool = True) -> Data:
    """Open the training and validation tables; one process of each machine fills the caches first.

    Raises:
        NotDownloaded: a published data set is missing, and ``download`` is off.
        ValueError: a data set is missing or damaged, or the two have different classes.
    """
    options: dict[str, Any] = {
        "on_bad": config.on_bad_image,
        "classes_file": config.classes,
        "download": download,
    }

    weights: dict[str, NDArray[np.float64]] = {}

    def opened(spec: str, split: Split, rules: ImageRules) -> Table:
        try:
            table = open_data(spec, config.data_dir, split, rules=rules, **options)
        except NotDownloaded:
            raise
        except ValueError as error:
            given = "--data" if split == "train" else "--val-data"
            raise ValueError(f"{given} {spec}: {error}") from error
        if split == "train" and config.subset is not None:
            table = take_subset(table, config.subset, config.subset_seed)
        if split == "train" and config.balance is not None:  # a conversion leaves no file names
            weights[split] = weights_of(config.balance, table.label, table.source)
        if choose(config, table, accelerator.device)[0] == "ffcv":
            table = cached_beton(table, spec, split=split, on_bad=config.on_bad_image)
        return table

    def both() -> Data:
        rules = image_rules(config)
        train = opened(config.data, "train", rules)
        spec = config.val_data or default_val(config.data)
        val = None
        if spec is not None and spec != "none":
            val = opened(spec, "val", rules_like(train, rules))
            try:
                val = match_classes(val, train)
            except ValueError as error:
                raise ValueError(f"--val-data {spec}: {error}") from error
        return Data(train, val, measured_facts(config, train), weights.get("train"))

    return local_main_first(accelerator, both)


def choose(config: Config, table: Table, device: torch.device) -> tuple[str, str]:
    """Return the loader of a table and the reason for it."""
    if config.loader != "auto":
        return config.loader, "--loader"
    budget = int(config.memory_budget * 2**30)
    return choose_loader(table, device, budget, data_is_beton=isinstance(table.source, Beton))


def loader_of(config: Config, data: Data, device: torch.device) -> str:
    """Return the loader of both splits; ``auto`` if they do not have the same."""
    tables = [table for table in (data.train, data.val) if table is not None]
    names = {choose(config, table, device)[0] for table in tables}
    return names.pop() if len(names) == 1 else config.loader


def sampler_of(config: Config, data: Data, rank: int = 0, world_size: int = 1) -> Sampler:
    """Return the sampler of this process's rows in each step."""
    blocks = None
    if config.order == "blocks":
        sequence = data.train.in_file_order()
        blocks = BlockShuffle(sequence, config.groups, config.block_rows, config.window_blocks)
    balance = None if data.weights is None else Balance(data.weights)
    rows, batch = len(data.train), config.batch_size
    return Sampler(rows, batch, config.seed, rank, world_size, blocks, balance)


def create_method(
    config: ResolvedConfig, steps_per_epoch: int, facts: DataFacts, num_rows: int
) -> Method:
    """Build the method of resolved settings, with weights drawn from the seed.

    ``facts`` and ``num_rows`` are those of the training images.
    """
    torch.manual_seed(config.seed)
    create = partial(
        create_backbone,
        config.backbone,
        config.image_size,
        config.stem,
        in_chans=config.in_chans,
        zero_init_last=config.zero_init_last,
        stem_init=config.stem_init,
        arguments=arguments(config.backbone_args),
    )
    method = build_method(
        config.method,
        config.chosen,
        METHODS[config.method].method.build_backbone(config.chosen, create),
        Setup(
            bn=config.bn,
            group_size=config.batch_size // config.groups,
            batch_size=config.batch_size,
            seed=config.seed,
            steps_per_epoch=steps_per_epoch,
            num_views=len(base_views(config)),
            num_rows=num_rows,
            mean=facts.mean,
            std=facts.std,
            clim=clim_loss(config),
            sizes=sizes_of(config),
        ),
    )
    if config.freeze_patch_embed:
        freeze_patch_embed(method.backbone, config.backbone)
    return method


def assemble(
    config: Config, data: Data, accelerator: Accelerator
) -> tuple[ResolvedConfig, Sampler, Method]:
    """Return the resolved settings, the sampler and the method.

    Raises:
        ValueError: they do not fit each other; the text names the flags.
    """
    config = with_measured_range(config, data.train)
    if config.normalize == "data":  # the run keeps what was measured
        config = dataclasses.replace(config, mean=data.facts.mean, std=data.facts.std)
    config = local_main_first(accelerator, partial(name_architecture, config))
    config = resolve(config, data_facts(config.data), accelerator.mixed_precision)
    sampler = sampler_of(config, data)
    check(config, accelerator.num_processes)
    check_neighbours(config, len(data.train))
    method = create_method(config, sampler.steps_per_epoch, data.facts, len(data.train))
    refuse_views(config, method, sampler.steps_per_epoch)
    return config, sampler, method


def gpu_decoder(config: Config) -> GpuDecoder:
    """Return the settings of DALI's decoder on a GPU."""
    return GpuDecoder(
        config.dali_device_memory_padding,
        config.dali_host_memory_padding,
        config.dali_hw_decoder_load,
    )


class Decoders:
    """Builds the decoder of a table on first use, and keeps it."""

    def __init__(
        self, config: Config, accelerator: Accelerator, print_fn: Callable[[str], None] = log.info
    ) -> None:
        self._config = config
        self._accelerator = accelerator
        self._print = print_fn
        self._made: dict[int, Decoder] = {}

    def of(self, table: Table) -> Decoder:
        """Return the table's decoder; on first use, print the chosen loader and the reason."""
        if id(table) not in self._made:
            self._made[id(table)] = self._make(table)
        return self._made[id(table)]

    def _make(self, table: Table) -> Decoder:
        config, device = self._config, self._accelerator.device
        loader, reason = choose(config, table, device)
        self._print(f"loader {loader} ({reason}) for {len(table):,} images")
        gpu = gpu_decoder(config)
        if gpu.arguments() and not (loader == "dali" and device.type == "cuda"):
            flags = ", ".join(flag(f"dali_{name}") for name in gpu.arguments())
            self._print(f"{flags}: no effect, since only --loader dali decodes on a GPU")
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


def training_loader(
    config: ResolvedConfig, data: Data, decoders: Decoders, method: Method, accelerator: Accelerator
) -> Loader:
    """Build the loader of this process's share of each batch."""
    decoder = decoders.of(data.train)
    sampler = sampler_of(config, data, accelerator.process_index, accelerator.num_processes)
    maker = StepMaker(
        table=data.train,
        sampler=sampler,
        views=view_plan(config, method, sampler.steps_per_epoch),
        decoder=decoder,
        mean=data.facts.mean,
        std=data.facts.std,
        device=accelerator.device,
        mixture=mixture_of(config, len(data.train), chained=method.chained_lam),
        groups=config.mixing_groups,
        workers=config.workers or cores_per_process(),
    )
    read_ahead = 0 if isinstance(decoder, MemoryDecoder) else config.read_ahead
    return Loader(maker, config.prefetch, read_ahead)


def evaluation_batches_of(
    config: ResolvedConfig,
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

    Without ``shared``, this process gets all of the rows.
    """
    rank, world_size = 0, 1
    if shared:
        rank, world_size = accelerator.process_index, accelerator.num_processes
    size = config.image_size
    resize = facts.eval_resize or facts.image_size
    return evaluation_batches(
        table,
        decoders.of(table),
        CenterCrop(size, round(size * resize / facts.image_size), facts.mean, facts.std),
        batch_size,
        accelerator.device,
        rank,
        world_size,
        rows,
    )


def load_run(run: Path, named: Path | None = None) -> tuple[ResolvedConfig, dict[str, Any]]:
    """Return the settings and the state of a run's last checkpoint, or of the checkpoint ``named``.

    ``named`` is what ``--checkpoint`` takes (``tools.runs.checkpoint.of_run``).

    Raises:
        ValueError: there is no such run, or no checkpoint in it.
    """
    path = checkpoint.first_whole(checkpoint.of_run(run, named))
    state = checkpoint.load(path)
    return resolved(from_saved(state["config"], str(path))), state
