"""Build the parts of a run from its settings: tables, views, method, loaders."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
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
from pipelines.data_facts import DataFacts, data_facts
from pipelines.decoders import Decoder
from pipelines.decoders.build import build_decoder
from pipelines.decoders.dali import DaliDecoder
from pipelines.decoders.dali_gpu import GpuDecoder
from pipelines.decoders.ffcv import FFCVDecoder
from pipelines.decoders.memory import MemoryDecoder
from pipelines.evaluation import CenterCrop, evaluation_batches
from pipelines.loader import Loader
from pipelines.sampler import Sampler
from pipelines.sources.table import Table
from pipelines.step_maker import StepMaker
from pipelines.system.units import counted
from tools.config.cli import from_saved
from tools.config.config import Config, ResolvedConfig, flag
from tools.config.images import with_measured_range
from tools.config.init import arguments
from tools.config.mixture import clim_loss, mixture_of
from tools.config.resolve import check, check_neighbours, resolve, resolved
from tools.config.view_plan import base_views, sizes_of, view_plan
from tools.distributed.coordination import local_main_first
from tools.distributed.launch import cores_per_process
from tools.engine.architecture import (
    freeze_patch_embed,
    name_architecture,
    refuse_views,
    with_whole_patches,
)
from tools.engine.data import Data, choose
from tools.engine.sampling import build_sampler, refuse_large_batch
from tools.runs import checkpoint

log = logging.getLogger(__name__)


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
            mix_terms=config.mix_terms,
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
    filled = resolve(config, data_facts(config.data), accelerator.mixed_precision)
    refuse_large_batch(filled, len(data.train), accelerator.num_processes)
    sampler = build_sampler(filled, data.train, unconverted=data.unconverted)
    check(filled, accelerator.num_processes)
    check_neighbours(filled, len(data.train))
    method = create_method(filled, sampler.steps_per_epoch, data.facts, len(data.train))
    filled = with_whole_patches(config, filled, method)
    refuse_views(filled, method, sampler.steps_per_epoch)
    return filled, sampler, method


class Decoders:
    """Builds the decoder of a table on first use, and keeps it."""

    def __init__(
        self, config: Config, accelerator: Accelerator, print_fn: Callable[[str], None] = log.info
    ) -> None:
        self._config = config
        self._accelerator = accelerator
        self._print = print_fn
        self._made: dict[int, MemoryDecoder | FFCVDecoder | DaliDecoder] = {}

    def of(self, table: Table) -> Decoder:
        """Return the table's decoder; on first use, print the chosen loader and the reason."""
        if id(table) not in self._made:
            self._made[id(table)] = self._make(table)
        return self._made[id(table)]

    def _make(self, table: Table) -> MemoryDecoder | FFCVDecoder | DaliDecoder:
        config, device = self._config, self._accelerator.device
        loader, reason = choose(config, table, device)
        self._print(f"loader {loader} ({reason}) for {counted(len(table), 'image')}")
        gpu = GpuDecoder(
            config.dali_device_memory_padding,
            config.dali_host_memory_padding,
            config.dali_hw_decoder_load,
        )
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

    def replaced(self) -> list[str]:
        """Return the names of the images that this process replaced by others, each once."""
        tables = [(made.bad_rows, made.table) for made in self._made.values()]
        return sorted({table.source.name(row) for rows, table in tables for row in rows})

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
    share = accelerator.process_index, accelerator.num_processes
    sampler = build_sampler(config, data.train, *share, unconverted=data.unconverted)
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
