"""Encode images for a ``.beton``: kept, re-encoded, or raw. Runs in worker processes."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.beton.format import MAX_SIDE, Sample
from pipelines.remote.errors import RemoteError
from pipelines.sources.colors import as_image
from pipelines.sources.image_file import MAX_PIXELS, Header, decode, quiet, read_header, reason
from pipelines.sources.joined import page_of
from pipelines.sources.parquet_rows import Parquet, split_parquet
from pipelines.sources.samples import ORIENTATION
from pipelines.sources.table import Table

BASELINE_TO_PROGRESSIVE = (0xC0, 0xC1, 0xC2)
"""JPEG frame markers that every fast decoder reads; not arithmetic and lossless coding."""
FULL_CHROMA = 95
"""From this quality on, colour is stored at full resolution: the loaders then agree at edges."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How images are stored."""

    max_size: int = 500
    """Longest side in pixels; larger images are shrunk. 0: no limit."""
    quality: int = 90
    """JPEG quality, 1 to 100, of re-encoded images."""
    keep_jpeg: bool = False
    """Store a JPEG's own bytes when it is upright RGB or gray and needs no shrinking."""
    workers: int = 0
    """Encoding processes; 0: one for each core."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_size <= MAX_SIDE:
            raise ValueError(f"--max-size {self.max_size} is not within 0 to {MAX_SIDE}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"--quality {self.quality} is not within 1 to 100")
        if self.workers < 0:
            raise ValueError(f"--workers {self.workers} is negative")


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row ready to be written; ``kept`` if its bytes are the source's."""

    sample: Sample
    kept: bool
    problem: str = ""
    """Why no decoder can read the bytes, which are stored all the same."""


@dataclass(frozen=True, slots=True)
class Task:
    """Rows for a worker; a row may take at most ``room`` bytes."""

    rows: Table
    settings: Settings
    room: int
    keep_bad: bool = False
    """Store the bytes of an image that cannot be decoded, so that its row remains."""


def encode_rows(task: Task) -> list[Encoded | str]:
    """Return each row encoded, or the reason why it cannot be; a bad image raises nothing."""
    rows = [_encode_row(task, row) for row in range(len(task.rows))]
    if not task.keep_bad:
        return rows
    return [_kept(task, i, row) if isinstance(row, str) else row for i, row in enumerate(rows)]


def _kept(task: Task, row: int, why: str) -> Encoded | str:
    """Return the bytes of a bad image as a row that a decoder will fail on, and replace."""
    table = task.rows
    height, width = int(table.height[row]), int(table.width[row])
    try:
        data = table.source.encoded(row)
    except OSError:
        return why
    if data is None or not 0 < max(height, width) <= MAX_SIDE or height * width > MAX_PIXELS:
        return why
    is_page = page_of(table.source, row) > 0
    stored = b"\0" if is_page else data[: task.room].tobytes()
    sample = Sample(stored, height, width, True, int(table.label[row]), table.channels)
    return Encoded(sample, kept=True, problem=why)


def _encode_row(task: Task, row: int) -> Encoded | str:
    size = -1
    try:
        source, label = task.rows.source, int(task.rows.label[row])
        data = source.encoded(row)
        if data is None:
            pixels = source.pixels(row)
            wanted = fitted(pixels.shape[1], pixels.shape[0], task.settings.max_size)
            encoded = _store(pixels, wanted, label, task.settings, lossless=True)
        else:
            size = len(data)
            with quiet():
                encoded = _encode(data.tobytes(), row, task)
    except RemoteError:  # the store failed, not the image
        raise
    except Exception as error:  # Pillow's plugins raise anything from SyntaxError to struct.error
        return reason(error, size).removeprefix(f"{task.rows.source.name(row)}: ")
    if max(encoded.sample.height, encoded.sample.width) > MAX_SIDE:
        return f"a side is over {MAX_SIDE} pixels; set --max-size"
    if len(encoded.sample.data) > task.room:
        return f"{len(encoded.sample.data)} bytes do not fit a page of {task.room}"
    return encoded


def _encode(data: bytes, row: int, task: Task) -> Encoded:
    settings, source, label = task.settings, task.rows.source, int(task.rows.label[row])
    rules, name = source.rules, source.name(row)
    page = page_of(source, row)
    header = read_header(io.BytesIO(data), rules, page)
    size = header.height, header.width
    small = not settings.max_size or max(size) <= settings.max_size
    if not small or header.height * header.width <= MAX_PIXELS:
        if settings.keep_jpeg and small and len(data) <= task.room and _keepable(header, data):
            return Encoded(Sample(data, *size, True, label, rules.channels), kept=True)
        pixels = decode(data, name, rules, page, settings.max_size)
        wanted = fitted(header.width, header.height, settings.max_size)
        return _store(pixels, wanted, label, settings, _is_lossless(header, data))
    raise ValueError(f"{header.width}x{header.height} pixels do not fit a .beton; set --max-size")


def _keepable(header: Header, data: bytes) -> bool:
    """Whether every decoder decodes these bytes to the same upright image.

    Pillow decodes the pixels, and so raises for a file that is cut off.
    """
    if header.format != "JPEG" or header.mode not in ("RGB", "L"):
        return False
    with Image.open(io.BytesIO(data)) as image:
        turned = image.getexif().get(ORIENTATION, 1) in range(2, 9)
        if not turned:
            image.load()
    return not turned and jpeg_frame(data) in BASELINE_TO_PROGRESSIVE


def jpeg_frame(data: bytes) -> int:
    """Return the frame marker of a JPEG, which names its coding; 0 without one."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return marker
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0


def _is_lossless(header: Header, data: bytes) -> bool:
    if header.format == "WEBP":
        return b"VP8L" in data[:64]
    return header.format not in ("JPEG", "MPO")


def _store(
    pixels: NDArray[np.uint8],
    wanted: tuple[int, int],
    label: int,
    settings: Settings,
    lossless: bool,
) -> Encoded:
    """Encode pixels at the wanted width and height.

    They stay raw if the source was lossless and is not shrunk, or if they are no gray or RGB image;
    else they become a JPEG.
    """
    width, height = wanted
    shrunk = (height, width) != pixels.shape[:2]
    raw = (lossless and not shrunk) or pixels.shape[2] not in (1, 3)
    if shrunk:
        pixels = _resized(pixels, wanted)
    if raw:
        channels = pixels.shape[2]
        sample = Sample(pixels.tobytes(), height, width, False, label, channels)
        return Encoded(sample, kept=False)
    out = io.BytesIO()
    chroma = 0 if settings.quality >= FULL_CHROMA else -1  # 0: whole; -1: PIL's half
    as_image(pixels).save(out, "JPEG", quality=settings.quality, subsampling=chroma)
    return Encoded(Sample(out.getvalue(), height, width, True, label), kept=False)


def _resized(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize (h, w, channels) to a width and height with PIL's LANCZOS."""
    lanczos = Image.Resampling.LANCZOS
    if pixels.shape[2] == 3:
        return np.asarray(Image.fromarray(pixels).resize(size, lanczos))
    bands = [Image.fromarray(band).resize(size, lanczos) for band in np.moveaxis(pixels, 2, 0)]
    return np.stack([np.asarray(band) for band in bands], axis=2)


def fitted(width: int, height: int, max_size: int) -> tuple[int, int]:
    """Return width and height with the longest side at most ``max_size`` and the same aspect."""
    longest = max(width, height)
    if not max_size or longest <= max_size:
        return width, height
    share = max_size / longest
    return max(1, round(width * share)), max(1, round(height * share))


def decode_rows(task: Task) -> list[str]:
    """Return for each row why PIL cannot decode it to its recorded size; empty if it can."""
    return [_decode_row(task.rows, row) for row in range(len(task.rows))]


def _decode_row(rows: Table, row: int) -> str:
    try:
        height, width = rows.source.pixels(row).shape[:2]
    except RemoteError:  # the store failed, not the image
        raise
    except Exception as error:
        return reason(error, -1).removeprefix(f"{rows.source.name(row)}: ")
    if (height, width) != (rows.height[row], rows.width[row]):
        return f"is {width}x{height}, recorded as {rows.width[row]}x{rows.height[row]}"
    return ""


def too_large(table: Table) -> NDArray[np.bool_]:
    """Return which images have a side or a number of pixels that no row of a .beton has, (N,)."""
    pixels = table.height.astype(np.int64) * table.width
    found: NDArray[np.bool_] = np.maximum(table.height, table.width) > MAX_SIDE
    return found | (pixels > MAX_PIXELS)


def refuse_too_large(table: Table) -> None:
    """Refuse a table with images that no row of a .beton holds.

    Raises:
        ValueError: naming the first, and the loader and the command that take it.
    """
    large = too_large(table)
    if large.any():
        row = int(np.argmax(large))
        raise ValueError(
            f"{table.source.name(row)}: {table.width[row]}x{table.height[row]} pixels do not fit "
            "a .beton (--loader ffcv): train with --loader dali, or shrink the images with "
            "tools/write_ffcv.py --max-size"
        )


def split_table(table: Table, size: int) -> Iterator[Table]:
    """Yield the table in parts of ``size`` rows, small enough to send to a worker.

    Parquet files are yielded in ``read_order``, in parts of at most ``parquet_rows.PART_ROWS``.
    """
    if isinstance(table.source, Parquet):
        yield from split_parquet(table)
        return
    for i in range(0, len(table), size):
        part = table.take(np.arange(i, min(i + size, len(table))))
        yield dataclasses.replace(part, classes=())


def read_order(table: Table) -> Iterable[int]:
    """Return the rows in the order in which ``split_table`` yields them."""
    if isinstance(table.source, Parquet) and not table.source.is_ordered:
        return map(int, table.in_file_order())
    return range(len(table))
