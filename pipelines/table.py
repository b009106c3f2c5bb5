"""The rows of a data set: label, size, and where the bytes are."""

from __future__ import annotations

import io
import mmap
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from pipelines import page_cache

MAX_PIXELS = 178_956_970
"""Images beyond this many pixels are refused as decompression bombs (Pillow's own error limit)."""


class BadImage(Exception):
    """No decoder can read the image; the text names it and says why."""


@runtime_checkable
class Source(Protocol):
    """Where the bytes of the rows are."""

    def name(self, row: int) -> str:
        """What a person would call the row: a path, or ``FILE row 17``."""

    def encoded(self, row: int) -> NDArray[np.uint8] | None:
        """The row's encoded bytes, (bytes,), or None when it is stored as pixels."""

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """The row decoded by the oracle (PIL), upright RGB, (h, w, 3); raises ``BadImage``."""

    def take(self, rows: NDArray[np.int64]) -> Source:
        """These rows alone, renumbered from 0."""

    def will_need(self, rows: NDArray[np.int64]) -> None:
        """Let the system begin to read the rows' bytes; advice, which costs and promises little."""

    def forget(self, rows: NDArray[np.int64]) -> None:
        """Let the system drop the rows' bytes from memory, so that they are read cold."""


@dataclass(frozen=True)
class Table:
    """N rows of a data set; ``label`` is -1 without classes, sizes are the upright image's."""

    label: NDArray[np.int64]
    height: NDArray[np.int32]
    width: NDArray[np.int32]
    source: Source
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.label)

    def class_name(self, label: int) -> str:
        """The name of the class with this number; where classes have no names, the number."""
        return self.classes[label] if label < len(self.classes) else f"class {label}"

    def in_file_order(self) -> NDArray[np.int64]:
        """The rows in the order of their bytes, (N,); files follow one another as listed."""
        if isinstance(self.source, Beton):
            return np.argsort(self.source.offset, kind="stable")
        return np.arange(len(self))

    def take(self, rows: NDArray[np.int64]) -> Table:
        """These rows alone, renumbered from 0; the classes stay."""
        return Table(
            self.label[rows],
            self.height[rows],
            self.width[rows],
            self.source.take(rows),
            self.classes,
        )


def decode_with_pil(data: bytes | memoryview, name: str) -> NDArray[np.uint8]:
    """Decode any image Pillow reads to upright RGB, (h, w, 3) uint8.

    EXIF orientation is applied, alpha dropped, 16-bit gray scaled to 8 bits.

    Raises:
        BadImage: Pillow cannot read it, or it has more than ``MAX_PIXELS`` pixels.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadImage(f"{name}: {image.width}x{image.height} pixels is over the limit")
            return np.asarray(to_rgb(ImageOps.exif_transpose(image)))
    except BadImage:
        raise
    except Exception as error:  # Pillow's plugins raise anything from SyntaxError to struct.error
        raise BadImage(f"{name}: {reason(error, len(data))}") from error


def reason(error: Exception, size: int) -> str:
    """Why Pillow could not read ``size`` bytes, in words a person can use."""
    if size == 0:
        return "empty file"
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow knows, or cut off in its header"
    return str(error) or type(error).__name__


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB; 16-bit gray keeps its range instead of saturating."""
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64)
        return Image.fromarray(np.clip(wide >> 8, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


@dataclass(frozen=True)
class Files:
    """Image files below ``root``."""

    root: Path
    names: Sequence[str]

    def name(self, row: int) -> str:
        """The file's path."""
        return str(self.root / self.names[row])

    def encoded(self, row: int) -> NDArray[np.uint8]:
        """The file's bytes."""
        return np.fromfile(self.root / self.names[row], np.uint8)

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """The file decoded by PIL."""
        return decode_with_pil(self.encoded(row).tobytes(), self.name(row))

    def take(self, rows: NDArray[np.int64]) -> Files:
        """These files alone."""
        return Files(self.root, [self.names[row] for row in rows])

    def will_need(self, rows: NDArray[np.int64]) -> None:
        """Ask for the files' bytes."""
        for row in rows:
            page_cache.will_need(self.root / self.names[row])

    def forget(self, rows: NDArray[np.int64]) -> None:
        """Give up the files' bytes."""
        for row in rows:
            page_cache.forget(self.root / self.names[row])


@dataclass(frozen=True)
class Arrays:
    """Decoded images of one size in memory."""

    title: str
    images: NDArray[np.uint8]  # (N, h, w, 3)

    def name(self, row: int) -> str:
        """Data set and row."""
        return f"{self.title} row {row}"

    def encoded(self, row: int) -> None:
        """Nothing is encoded here."""

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """The stored image."""
        return self.images[row]

    def take(self, rows: NDArray[np.int64]) -> Arrays:
        """These images alone, copied."""
        return Arrays(self.title, self.images[rows])

    def will_need(self, rows: NDArray[np.int64]) -> None:
        """Nothing: they are in memory."""

    def forget(self, rows: NDArray[np.int64]) -> None:
        """Nothing: there is no file to read them from again."""


@dataclass(frozen=True)
class Beton:
    """Rows of an FFCV file: ``jpg`` ones hold encoded bytes, the others raw pixels."""

    path: Path
    offset: NDArray[np.uint64]  # (N,) of the row's bytes in the file
    size: NDArray[np.uint64]  # (N,) their number
    jpg: NDArray[np.bool_]  # (N,)
    height: NDArray[np.int32] = field(repr=False)
    width: NDArray[np.int32] = field(repr=False)

    @cached_property
    def bytes(self) -> NDArray[np.uint8]:
        """The whole file, memory-mapped read-only."""
        return np.frombuffer(self._map, np.uint8)

    @cached_property
    def _map(self) -> mmap.mmap:
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _row(self, row: int) -> NDArray[np.uint8]:
        begin = int(self.offset[row])
        return np.asarray(self.bytes[begin : begin + int(self.size[row])])

    def name(self, row: int) -> str:
        """File and row."""
        return f"{self.path} row {row}"

    def encoded(self, row: int) -> NDArray[np.uint8] | None:
        """The JPEG's bytes, or None for a raw row."""
        return self._row(row) if self.jpg[row] else None

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """The row's pixels, decoded by PIL if need be."""
        data = self._row(row)
        if self.jpg[row]:
            return decode_with_pil(data.tobytes(), self.name(row))
        return data.reshape(int(self.height[row]), int(self.width[row]), 3)

    def take(self, rows: NDArray[np.int64]) -> Beton:
        """These rows of the same file."""
        return Beton(
            self.path,
            self.offset[rows],
            self.size[rows],
            self.jpg[rows],
            self.height[rows],
            self.width[rows],
        )

    def ranges(self, rows: NDArray[np.int64]) -> page_cache.Ranges:
        """Where the rows' bytes are in the file, neighbours joined."""
        return page_cache.joined(self.offset[rows], self.size[rows])

    def will_need(self, rows: NDArray[np.int64]) -> None:
        """Ask for the rows' bytes, neighbours in the file at once."""
        page_cache.will_need(self.path, self.ranges(rows))

    def forget(self, rows: NDArray[np.int64]) -> None:
        """Give up the pages that hold the rows, here and in the system.

        The system keeps what is mapped: by this table, where it is let go first, or by another.
        """
        ranges = self.ranges(rows)
        for begin, end in page_cache.whole_pages(ranges).tolist():
            self._map.madvise(mmap.MADV_DONTNEED, begin, end - begin)
        page_cache.forget(self.path, ranges)
