"""What the loaders share: their options, the decoder, the normalization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from pipelines.beton.parts import stored_table
from pipelines.decoders import Decoder
from pipelines.decoders.build import LOADERS, build_decoder, choose_loader
from pipelines.public.data import Data
from pipelines.settings import Interpolation, OnBadImage
from pipelines.sources.stored import InFiles
from pipelines.sources.table import Table
from pipelines.system.workers import cores_per_process


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
    on_bad_image: OnBadImage | None = None
    """``stop``: an unreadable image raises; ``replace``: the next row takes its place; None: as
    ``open_data`` was asked to do."""


DEFAULTS = LoaderOptions()


def choose_device(device: torch.device | str | None) -> torch.device:
    """Return the device; None: the current GPU, or the host without one."""
    if device is not None:
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def normalization_of(
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


def make_decoder(data: Data, device: torch.device, options: LoaderOptions) -> tuple[Table, Decoder]:
    """Return the table that the decoder reads, and the decoder."""
    table, name = data.table, str(options.loader)
    on_bad = options.on_bad_image or data.on_bad_image
    if name == "auto":
        is_beton = isinstance(table.source, InFiles)
        name, _ = choose_loader(table, device, options.memory_budget, data_is_beton=is_beton)
    if name not in LOADERS:
        raise ValueError(f"loader={name!r}: choose auto or one of {', '.join(LOADERS)}")
    if name == "ffcv":
        table = stored_table(table, data.spec, split=data.split, on_bad=on_bad)
    decoder = build_decoder(
        name,
        table,
        interpolation=options.interpolation,
        workers=options.workers or cores_per_process(),
        device=device,
        on_bad=on_bad,
    )
    return table, decoder
