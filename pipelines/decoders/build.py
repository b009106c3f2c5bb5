"""The choice of a loader for a table, and its decoder."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.beton.encode import too_large
from pipelines.decoders.dali import PART_BYTES, DaliDecoder
from pipelines.decoders.dali_gpu import BY_DALI, DALI_ON_GPU, GpuDecoder, decoding_device
from pipelines.decoders.ffcv import FFCVDecoder
from pipelines.decoders.memory import MemoryDecoder, decoded_bytes, fits, one_size
from pipelines.settings import Interpolation, OnBadImage
from pipelines.sources.joined import sources_of
from pipelines.sources.shards import Shards
from pipelines.sources.table import Table

LOADERS = ("memory", "ffcv", "dali")


def choose_loader(
    table: Table, device: torch.device, budget: int, *, data_is_beton: bool
) -> tuple[str, str]:
    """Return the loader that ``--loader auto`` selects, and the reason.

    Args:
        table: the data.
        device: device of training.
        budget: bytes that decoded images may take on the device.
        data_is_beton: whether the rows are pieces of files: of .beton files or of tar shards.
    """
    sources = sources_of(table.source)
    shards = [source for source in sources if isinstance(source, Shards)]
    if fits(table, budget):
        size = f"{table.height[0]}x{table.width[0]}"
        mib, most = decoded_bytes(table) / 2**20, budget / 2**20
        return "memory", f"{len(table)} images of {size} take {mib:,.0f} of {most:,.0f} MiB"
    has_ffcv = importlib.util.find_spec("ffcv") is not None
    if not all(source.are_jpegs for source in shards):
        return "dali", "most images in the shards are no JPEGs"
    if data_is_beton and has_ffcv and not (device.type == "cuda" and shards):
        return "ffcv", f"the data is {_files(len(sources) - len(shards), len(shards))}"
    if device.type == "cuda" and (not data_is_beton or shards):
        return "dali", "image files are decoded on the GPU"
    if too_large(table).any():
        return "dali", "an image is too large for a .beton"
    if has_ffcv:
        return "ffcv", "a .beton is the fastest on the host"
    return "dali", "the ffcv package is not installed"


def _files(betons: int, sources_of_shards: int) -> str:
    """Return what data of so many sources of each kind is."""
    if not sources_of_shards:
        return "a .beton file" if betons == 1 else "in .beton files"
    return "in .beton files and tar shards" if betons else "in tar shards"


@dataclass(frozen=True, slots=True)
class DecodeMemory:
    """The most bytes that a loader's decoded images take, and what they are."""

    bytes: int
    what: str


def decode_memory(table: Table, rows: int, workers: int) -> dict[str, DecodeMemory]:
    """Return the most memory that decoding takes at a time, for each loader that can read a table.

    It is computed from the sizes of the table's images. The crops, which all loaders make alike,
    are not counted. ``memory`` and, on a GPU, ``dali`` keep the images on the device.

    Args:
        table: the images.
        rows: images of a step of this process, all distinct.
        workers: decoding threads of this process.
    """
    pixels = _largest(table, max(rows, 1))
    largest = int(pixels.max(initial=0))
    at_once = max(PART_BYTES, table.channels * largest)
    scratch = 3 * largest * (1 if table.channels == 3 else 2)  # decoded, and three channels of it
    found = {
        "ffcv": DecodeMemory(
            workers * scratch, f"the largest image for each of --workers {workers}"
        ),
        "dali": DecodeMemory(
            min(table.channels * int(pixels[:rows].sum()), at_once),
            f"the images of a step, at most {PART_BYTES >> 20} MiB or one image at a time",
        ),
    }
    if one_size(table):
        whole = DecodeMemory(decoded_bytes(table), f"all {len(table):,} images")
        found = {"memory": whole, **found}
    return found


def _largest(table: Table, count: int) -> NDArray[np.int64]:
    """Return the pixels of the largest images, (at most count,), with little memory."""
    found = np.zeros(0, np.int64)
    for begin in range(0, len(table), 1 << 20):
        part = slice(begin, begin + (1 << 20))
        pixels = table.height[part].astype(np.int64) * table.width[part]
        found = np.sort(np.concatenate((found, pixels)))[::-1][:count]
    return found


def build_decoder(
    loader: str,
    table: Table,
    *,
    interpolation: Interpolation,
    workers: int,
    device: torch.device,
    on_bad: OnBadImage,
    gpu: GpuDecoder = BY_DALI,
) -> MemoryDecoder | FFCVDecoder | DaliDecoder:
    """Build the decoder of a loader.

    ``ffcv`` and ``dali`` on the host return crops in host memory, page-locked if ``device`` is a
    GPU; the others on the device. ``gpu`` applies to ``dali`` on a GPU only. Where DALI's decoder
    on the GPU does not prove itself, DALI decodes on the host.

    Raises:
        ValueError: there is no such loader, or it cannot read this table.
        MissingPackage: its package is not installed.
    """
    pin = device.type == "cuda"
    if loader == "memory":
        return MemoryDecoder(
            table, interpolation=interpolation, workers=workers, device=device, on_bad=on_bad
        )
    if loader == "ffcv":
        return FFCVDecoder(
            table, interpolation=interpolation, workers=workers, on_bad=on_bad, pin=pin
        )
    if loader == "dali":
        dali = DaliDecoder(
            table,
            interpolation=interpolation,
            workers=workers,
            device=decoding_device(device),
            on_bad=on_bad,
            pin=pin,
            gpu=gpu,
        )
        dali.device_path = DALI_ON_GPU if device.type == "cuda" else None
        return dali
    raise ValueError(f"--loader must be auto or one of {', '.join(LOADERS)}, got {loader!r}")
