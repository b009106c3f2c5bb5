"""The ``memory`` loader: the decoded data set as one tensor on the device.

On a GPU the crops are batched matrix products, without a loop over rows. On the host the compiled
code of the other loaders cuts them, in a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from pipelines.decoders import Crops
from pipelines.decoders.crop_plan import check_windows
from pipelines.decoders.pil import pixels_or_replacement
from pipelines.decoders.resample import FILTER_IDS, cut_channels, weight_matrix
from pipelines.settings import Interpolation, OnBadImage
from pipelines.sources.arrays import Arrays
from pipelines.sources.table import Table
from pipelines.system.jit import jit
from pipelines.system.scope import scoped_map
from pipelines.system.transfer import to_device

CHUNK_BYTES = 256 * 2**20
"""Crops are made in chunks whose intermediate results take less than this."""


def fits(table: Table, budget_bytes: int) -> bool:
    """Whether all images have one size and, decoded, take at most ``budget_bytes``."""
    return one_size(table) and decoded_bytes(table) <= budget_bytes


def decoded_bytes(table: Table) -> int:
    """Return the bytes of all images as pixels."""
    pixels = np.einsum("i,i", table.height, table.width, dtype=np.int64)  # without a copy
    return table.channels * int(pixels)


def one_size(table: Table) -> bool:
    """Whether there are images, all of one size."""
    sides = table.height, table.width
    return len(table) > 0 and all(bool(side.min() == side.max()) for side in sides)


def check_one_size(table: Table) -> None:
    """Refuse images that the memory loader cannot hold as one array.

    Raises:
        ValueError: the images differ in size, or there are none; the text names other loaders.
    """
    if one_size(table):
        return
    found = "there are none"
    if len(table):
        sides = np.stack([table.height, table.width], axis=1)
        other = int(np.flatnonzero((sides != sides[0]).any(axis=1))[0])
        examples = [f"{table.source.name(r)} ({sides[r, 1]}x{sides[r, 0]})" for r in (0, other)]
        found = f"the {len(table):,} have {len(np.unique(sides, axis=0)):,}, as "
        found += " and ".join(examples)
    raise ValueError(
        f"--loader memory needs images of one size, at least one, and {found}; take `--loader "
        "auto`, `--loader ffcv` or `--loader dali`"
    )


class MemoryDecoder:
    """Crops of images that are already decoded; see ``pipelines.decoders.Decoder``.

    ``decodes`` counts the images decoded by the constructor; a call decodes none. With
    ``cut_on_host=False`` the crops are matrix products on the host too.

    Raises:
        ValueError: the images differ in size.
        BadImage: an image cannot be read and ``on_bad`` is "stop".
    """

    def __init__(
        self,
        table: Table,
        *,
        interpolation: Interpolation = "antialias",
        workers: int = 1,
        device: torch.device,
        on_bad: OnBadImage = "stop",
        cut_on_host: bool = True,
    ) -> None:
        check_one_size(table)
        self.table = table
        self.interpolation: Interpolation = interpolation
        images, self.bad_rows = decode_all(table, workers, on_bad)
        self.replaced = len(self.bad_rows)
        self.images = images.to(device)  # (N, h, w, c)
        self.decodes = len(table)
        self.cut_on_host = cut_on_host and device.type == "cpu"

    def __call__(self, rows: NDArray[np.int64], crops: Sequence[Crops]) -> list[Tensor]:
        """Cut the crops on the device."""
        check_windows(self.table, rows, crops)
        make = self._by_compiled_code if self.cut_on_host else self._by_matrices
        return [make(rows[view.take], view) for view in crops]

    def _by_compiled_code(self, rows: NDArray[np.int64], view: Crops) -> UInt8[Tensor, "k s s c"]:
        out = np.empty((len(rows), view.size, view.size, self.table.channels), np.uint8)
        cut_rows(self.images.numpy(), rows, view.box, FILTER_IDS[self.interpolation], out)
        return torch.from_numpy(out)

    def _by_matrices(self, rows: NDArray[np.int64], view: Crops) -> UInt8[Tensor, "k s s c"]:
        device = self.images.device
        host = torch.from_numpy(np.column_stack([rows, view.box]).astype(np.int64))
        index, box = to_device(host, device).split([1, 4], dim=1)
        pieces = zip(*(x.split(self._chunk(view.size)) for x in (index[:, 0], box)), strict=True)
        with torch.autocast(device.type, enabled=False):
            made = [cut_by_matrices(self.images[i], b, view.size, self.interpolation)
                    for i, b in pieces]  # fmt: skip
        return torch.cat(made)

    def _chunk(self, size: int) -> int:
        """Return the number of crops to make at once."""
        height, width, c = self.images.shape[1:]
        floats = c * (height * width + 2 * size * width + 2 * size * size) + size * (height + width)
        return int(max(CHUNK_BYTES // (4 * floats), 1))

    def close(self) -> None:
        """Free the images."""
        del self.images


def decode_all(
    table: Table, workers: int, on_bad: OnBadImage
) -> tuple[UInt8[Tensor, "n h w c"], set[int]]:
    """Decode every row with PIL in threads; return the images and the rows replaced."""
    if isinstance(table.source, Arrays):
        images = table.source.images
        return torch.from_numpy(images if images.flags.writeable else images.copy()), set()
    shape = (len(table), int(table.height[0]), int(table.width[0]), table.channels)
    images = np.empty(shape, np.uint8)

    def decode(row: int) -> bool:
        images[row], replaced = pixels_or_replacement(table, row, on_bad)
        return replaced

    replaced = list(scoped_map(decode, range(len(table)), workers))
    return torch.from_numpy(images), set(np.flatnonzero(replaced).tolist())


@jit
@no_type_check
def cut_rows(images, rows, box, filter_id, out):
    """Cut window ``box[j]`` of ``images[rows[j]]`` into ``out[j]``."""
    for j in range(len(rows)):
        cut_channels(images[rows[j]], box[j, 0], box[j, 1], box[j, 2], box[j, 3], filter_id, out[j])


def cut_by_matrices(
    images: UInt8[Tensor, "k h w c"],
    box: Int[Tensor, "k 4"],
    size: int,
    interpolation: Interpolation,
) -> UInt8[Tensor, "k {size} {size} c"]:
    """Crop and resize image by image as two batched matrix products.

    ``out[j] = Wy[j] @ images[j] @ Wx[j].T`` for each channel, rounded.
    """
    k, height, width, c = images.shape
    top, left, tall, wide = box.unbind(1)
    down = weight_matrix(top, tall, height, size, interpolation)  # (k, size, h)
    across = weight_matrix(left, wide, width, size, interpolation)  # (k, size, w)
    low = down @ images.reshape(k, height, c * width).float()  # (k, size, c w)
    low = low.view(k, size, width, c).transpose(1, 2).reshape(k, width, c * size)
    out = (across @ low).view(k, size, size, c).transpose(1, 2)  # x, y to y, x
    return (out + 0.5).clamp(0, 255).to(torch.uint8).contiguous()
