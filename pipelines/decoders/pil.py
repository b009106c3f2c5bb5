"""PIL: the reference for all decoders, and the fallback for images that they cannot read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.decoders.crop_plan import CropPlan, cut_image
from pipelines.remote.errors import RemoteError
from pipelines.settings import Interpolation, OnBadImage
from pipelines.sources.image_file import BadImage
from pipelines.sources.table import Table

FILTERS = {
    "antialias": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "area": Image.Resampling.BOX,
}


def crops_with_pil(
    pixels: NDArray[np.uint8],
    boxes: NDArray[np.int32],
    sizes: Sequence[int],
    interpolation: Interpolation,
) -> list[NDArray[np.uint8]]:
    """Crop, then resize, with PIL only: the oracle of the contract test.

    ``area`` is PIL's BOX, which counts a pixel fully or not at all, while ours weights it by the
    covered part; the two agree on average only.

    Args:
        pixels: the image, (h, w, 3).
        boxes: (k, 4) of top, left, height, width.
        sizes: the side of each output in pixels.
        interpolation: the filter.
    """
    image = Image.fromarray(pixels)
    crops = []
    for (top, left, height, width), size in zip(boxes.tolist(), sizes, strict=True):
        window = image.crop((left, top, left + width, top + height))
        if interpolation == "bilinear":  # unlike resize, transform does not widen the filter
            whole = (0, 0, width, height)
            bilinear = Image.Resampling.BILINEAR
            resized = window.transform((size, size), Image.Transform.EXTENT, whole, bilinear)
        else:
            resized = window.resize((size, size), FILTERS[interpolation])
        crops.append(np.asarray(resized))
    return crops


def pixels_or_replacement(
    table: Table, row: int, on_bad: OnBadImage
) -> tuple[NDArray[np.uint8], bool]:
    """Decode a row with PIL; with ``on_bad="replace"``, the first readable row from it on.

    The replacement depends on the row only: it is the same in every batch and on every rank.

    Returns:
        The pixels, (h, w, c), and whether they are another row's.

    Raises:
        BadImage: the image cannot be read, or its size is not the table's; with ``replace``, no
            row of the table can be read.
        RemoteError: a row cannot be fetched.
    """
    for step in range(len(table)):
        try:
            return _pixels_of_known_size(table, (row + step) % len(table)), step > 0
        except RemoteError:  # the store failed, not the image
            raise
        except (BadImage, OSError, ValueError) as error:  # ValueError: a raw row too short
            if on_bad == "stop":
                raise bad_image(table, row, error) from error
    raise BadImage(f"{table.source.name(row)}: neither it nor any other row can be read")


def bad_image(table: Table, row: int, error: Exception) -> BadImage:
    """Return an error that names the row, and what shows another image in its place."""
    named = str(error) if isinstance(error, BadImage) else f"{table.source.name(row)}: {error}"
    return BadImage(f"{named} (--on-bad-image replace shows another image in its place)")


def _pixels_of_known_size(table: Table, row: int) -> NDArray[np.uint8]:
    pixels = table.source.pixels(row)
    known = (int(table.height[row]), int(table.width[row]))
    if pixels.shape[2] != table.channels:
        raise BadImage(
            f"{table.source.name(row)}: {pixels.shape[2]} channels instead of {table.channels}"
        )
    if pixels.shape[:2] != known:
        raise BadImage(
            f"{table.source.name(row)}: {pixels.shape[0]}x{pixels.shape[1]} pixels instead of "
            f"{known[0]}x{known[1]}: changed since the table was built"
        )
    return pixels


def fill_by_pil(
    table: Table, plan: CropPlan, i: int, interpolation: Interpolation, on_bad: OnBadImage
) -> bool:
    """Make all crops of the plan's image ``i`` from PIL's pixels; return whether it was replaced.

    In a replacement, each box has the same place and size relative to the image.

    Raises:
        BadImage: see ``pixels_or_replacement``.
    """
    row = int(plan.rows[i])
    pixels, replaced = pixels_or_replacement(table, row, on_bad)
    box = plan.box[int(plan.first[i]) : int(plan.first[i + 1])]
    if replaced:
        box = scale_boxes(box, (int(table.height[row]), int(table.width[row])), pixels.shape[:2])
    cut_image(plan, i, pixels, interpolation, box=box)
    return replaced


def scale_boxes(
    box: NDArray[np.int64], old: tuple[int, int], new: tuple[int, ...]
) -> NDArray[np.int64]:
    """Scale boxes (k, 4) of an image of size ``old`` (height, width) to one of size ``new``."""
    factor = np.array(new) / np.array(old)
    extent = np.clip(np.rint(box[:, 2:] * factor).astype(np.int64), 1, new)
    begin = np.minimum((box[:, :2] * factor).astype(np.int64), np.array(new) - extent)
    return np.concatenate([begin, extent], axis=1)
