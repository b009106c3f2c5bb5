"""DALI's decoder on a GPU: its package, its settings, and its proof against PIL."""

from __future__ import annotations

import contextlib
import io
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipelines.decoders import Crops, MissingPackage
from pipelines.decoders.pil import crops_with_pil
from pipelines.sources.image_file import ImageRules
from pipelines.sources.table import Table
from pipelines.system.device_path import DevicePath

MISSING = (
    "--loader dali needs the Python package nvidia-dali, which cannot be imported ({error}). "
    "`pip install nvidia-dali-cuda130` or `make install` installs it."
)


def import_dali() -> tuple[Any, Any]:
    """Return DALI's dynamic mode and its kinds of images.

    Raises:
        MissingPackage: DALI is not installed.
    """
    try:
        import nvidia.dali.experimental.dynamic as dynamic
        from nvidia.dali.types import DALIImageType
    except (ImportError, OSError) as error:
        raise MissingPackage(MISSING.format(error=error)) from error
    return dynamic, DALIImageType


@dataclass(frozen=True)
class GpuDecoder:
    """Settings of DALI's decoder on a GPU; None is DALI's default, given in brackets.

    ``device_memory_padding`` and ``host_memory_padding`` are MiB that each decoding thread
    allocates in advance (16 on the device; 8 page-locked ones on the host, twice), so that a large
    image need not wait for an allocation. ``hw_decoder_load`` is the share, 0 to 1, of images
    decoded by the hardware's JPEG decoder, if there is one (0.65).

    Source: the documentation of DALI 2.4, ``decoders.image``.
    """

    device_memory_padding: float | None = None
    host_memory_padding: float | None = None
    hw_decoder_load: float | None = None

    def arguments(self) -> dict[str, int | float]:
        """Return the settings that are not None, in DALI's units."""
        found: dict[str, int | float] = {}
        for name in ("device_memory_padding", "host_memory_padding"):
            mib = getattr(self, name)
            if mib is not None:
                found[name] = round(mib * 2**20)
        if self.hw_decoder_load is not None:
            found["hw_decoder_load"] = self.hw_decoder_load
        return found


BY_DALI = GpuDecoder()


def decoding_device(device: torch.device) -> torch.device:
    """Return where DALI decodes for training on ``device``: there, or on the host.

    Raises:
        MissingPackage: DALI is not installed.
        PathRefused: ``--device-paths fused``, and the GPU's decoder cannot be used.
    """
    import_dali()
    if device.type != "cuda" or DALI_ON_GPU.usable(device):
        return device
    return torch.device("cpu")


SIDE, SIZE = 64, 24
BOXES = np.array([[0, 0, SIDE, SIDE], [5, 9, 40, 33]], np.int32)


class _Sample:
    """One smooth JPEG in memory, as a source."""

    def __init__(self) -> None:
        y, x = np.mgrid[0:SIDE, 0:SIDE] * (255 / SIDE)
        picture = Image.fromarray(np.stack([x, y, (x + y) / 2], axis=2).astype(np.uint8))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=95, subsampling=0)
        self.bytes = file.getvalue()
        self.rules = ImageRules()

    def name(self, row: int) -> str:
        return "a test image"

    def encoded(self, row: int) -> NDArray[np.uint8]:
        return np.frombuffer(self.bytes, np.uint8)

    def pixels(self, row: int) -> NDArray[np.uint8]:
        return np.asarray(Image.open(io.BytesIO(self.bytes)))

    def file_order(self) -> NDArray[np.int64]:
        return np.zeros(1, np.int64)

    def take(self, rows: NDArray[np.int64]) -> _Sample:
        return self

    def will_need(self, rows: NDArray[np.int64]) -> None:
        return None

    def held(self, rows: NDArray[np.int64]) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def forget(self, rows: NDArray[np.int64]) -> None:
        return None


def _by_dali(device: torch.device) -> list[Tensor]:
    """Decode and cut the sample as a run does."""
    from pipelines.decoders.dali import DaliDecoder

    side = np.full(1, SIDE, np.int32)
    table = Table(np.zeros(1, np.int64), side, side, _Sample())
    decoder = DaliDecoder(table, device=device, cut_on_host=False)
    try:
        crops = decoder(np.zeros(1, np.int64), [Crops(SIZE, np.zeros(2, np.int64), BOXES)])
        if decoder.by_pil:
            raise RuntimeError("it could not decode a plain JPEG")
        return crops
    finally:
        decoder.close()


def _by_pil(device: torch.device) -> list[Tensor]:
    crops = crops_with_pil(_Sample().pixels(0), BOXES, (SIZE, SIZE), "antialias")
    return [torch.from_numpy(np.stack(crops))]


DALI_ON_GPU = DevicePath("DALI's decoder on the GPU", _by_dali, _by_pil, tolerance=8.0)
"""In grey levels of the worst value; the tests allow 2 on average."""
