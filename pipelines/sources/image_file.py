"""What any image file becomes: upright pixels of 8 bits and a fixed number of channels.

Every loader and the writer of ``.beton`` files decide here, so that no two of them disagree. The
fast decoders see plain 8-bit JPEG only; everything else is decoded by ``decode``.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from pipelines.sources import samples
from pipelines.sources.colors import as_image, check_bands, to_channels
from pipelines.sources.depth import Range, to_8_bits
from pipelines.sources.png import File
from pipelines.sources.samples import Layout

MAX_PIXELS = 178_956_970
"""Images beyond this many pixels are refused as decompression bombs (Pillow's own error limit)."""
Pages = Literal["first", "all"]


class BadImage(Exception):
    """No decoder can read the image; the text has its name and the reason."""


@dataclass(frozen=True, slots=True)
class ImageRules:
    """How image files of any kind become pixels; the flags of the same names set the fields."""

    background: str = "white"
    """Colour behind transparent pixels: white, black or #rrggbb."""
    depth_range: Range | None = None
    """Samples that become 0 and 255, in images of more than 8 bits that declare no range; None:
    the data set's, below."""
    pages: Pages = "first"
    """The page or frame of a file that is a row: the first, or each."""
    channels: int = 3
    """Channels of the decoded pixels: 3 is RGB, 1 is luma, N are the N bands of the files."""
    max_pixels: int = MAX_PIXELS
    """Images of more pixels are refused."""
    int_range: Range | None = None
    """The data set's range of integer samples without a declared depth; the scan measures it."""
    float_range: Range | None = None
    """The data set's range of floating-point samples; the scan measures it."""

    def __post_init__(self) -> None:
        try:
            ImageColor.getrgb(self.background)
        except ValueError as error:
            raise ValueError(
                f"--background {self.background} is no colour: white, black or #rrggbb"
            ) from error
        if self.depth_range is not None:
            low, high = self.depth_range
            if not (np.isfinite(low) and np.isfinite(high) and low < high):
                raise ValueError(f"--depth-range {low:g} {high:g}: LO must be below HI")
        if self.channels < 1:
            raise ValueError(f"--in-chans {self.channels}: an image has at least 1 channel")
        if self.max_pixels < 1:
            raise ValueError(f"--max-pixels {self.max_pixels} leaves no image")

    def like(self, train: ImageRules) -> ImageRules:
        """Return these rules with the ranges and the background of a run's training images."""
        return replace(
            self,
            background=train.background if self.background == "white" else self.background,
            int_range=train.int_range,
            float_range=train.float_range,
        )

    def range_of(self, layout: Layout) -> Range | None:
        """Return the samples of such a file that become 0 and 255; None: its full range."""
        measured = self.float_range if layout.is_float else self.int_range
        limits = layout.declared or self.depth_range or measured
        return limits[::-1] if limits and layout.white_is_zero else limits

    @property
    def is_color(self) -> bool:
        """Whether images are gray or RGB, and their bands not just numbers."""
        return self.channels in (1, 3)


RULES = ImageRules()
"""What holds where nothing is set."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file's header says about one of its pages."""

    height: int
    """Pixels of the upright image."""
    width: int
    format: str
    """Pillow's name of the file format: ``JPEG``, ``PNG``, ``TIFF``."""
    mode: str
    """Pillow's mode; empty where Pillow cannot read the file."""
    bits: int
    """Bits of a sample: 1, 8, 12, 16, 32 ..."""
    is_float: bool
    channels: int
    """Bands without transparency: 1 for gray, 3 for RGB, palette and CMYK."""
    has_alpha: bool
    pages: int
    """Pages or frames of the file."""
    declared: bool
    """Whether the file declares the range of its samples; True for 8 bits and fewer."""


def read_header(file: File, rules: ImageRules = RULES, page: int = 0) -> Header:
    """Read an image's header, without its pixels where the format allows it.

    Raises:
        ValueError: the image has more than ``rules.max_pixels`` pixels. Pillow raises many other
            errors.
    """
    with quiet(), _opened(file, rules, page) as (image, layout):
        return _header(image, layout, file)


def read_pages(file: File, rules: ImageRules = RULES) -> list[Header]:
    """Read the header of every page; raises what ``read_header`` does."""
    with quiet(), _opened(file, rules, 0) as (image, layout):
        first = _header(image, layout, file)
        if layout.format != "TIFF":
            return [first] * first.pages
        headers = [first]
        for page in range(1, first.pages):
            if image is not None:
                image.seek(page)
            layout = samples.layout_at(image, file, page)
            _check_size(layout, rules)
            headers.append(_header(image, layout, file))
        return headers


def _header(image: Image.Image | None, layout: Layout, file: File) -> Header:
    height, width = layout.height, layout.width
    turned = layout.orientation
    if image is not None and layout.reader != "tifffile":
        turned = samples.orientation(image, file)
    if turned in (5, 6, 7, 8):
        height, width = width, height
    return Header(
        height, width, layout.format, "" if image is None else image.mode, layout.bits,
        layout.is_float, layout.bands, layout.has_alpha, layout.pages,
        declared=layout.bits <= 8 or layout.declared is not None,
    )  # fmt: skip


def decode(
    data: bytes | memoryview,
    name: str,
    rules: ImageRules = RULES,
    page: int = 0,
    shrink_to: int = 0,
) -> NDArray[np.uint8]:
    """Decode a page of any image file to upright pixels, (h, w, rules.channels) uint8.

    EXIF's orientation is applied, transparency is replaced by ``rules.background``, and samples of
    more than 8 bits are scaled as ``ImageRules.range_of`` says.

    Args:
        data: the file's bytes.
        name: what messages call it.
        rules: what the file becomes.
        page: page or frame, counted from 0.
        shrink_to: a JPEG of more than ``MAX_PIXELS`` pixels may be returned at an eighth of its
            size or more, with a longest side of at least this many pixels; 0: at its own size.

    Raises:
        BadImage: nothing can read it, it is larger than ``rules.max_pixels``, has another number of
            bands than ``rules.channels``, or samples that are not finite.
    """
    try:
        with _opened(io.BytesIO(data), rules, page) as (image, layout):
            if image is not None and shrink_to and layout.width * layout.height > MAX_PIXELS:
                share = shrink_to / max(image.size)
                image.draft(None, (ceil(image.width * share), ceil(image.height * share)))
            return _pixels(image, layout, data, rules, page)
    except Exception as error:  # Pillow's plugins raise anything from SyntaxError to struct.error
        raise BadImage(f"{name}: {reason(error, len(data))}") from error


def decode_with_pil(data: bytes | memoryview, name: str) -> NDArray[np.uint8]:
    """``decode`` with the rules that hold where nothing is set: (h, w, 3) uint8."""
    return decode(data, name)


def value_range(data: bytes | memoryview, rules: ImageRules = RULES, page: int = 0) -> Range:
    """Return the smallest and the largest sample of an image, without its transparency.

    Raises:
        ValueError: a sample is not finite. Pillow raises many other errors.
    """
    with quiet(), _opened(io.BytesIO(data), rules, page) as (image, layout):
        bands = layout.bands if rules.is_color else rules.channels
        colors = _samples(image, layout, data, page)[..., :bands]
        return float(colors.min()), float(colors.max())


def reason(error: Exception, size: int) -> str:
    """Return a readable reason why Pillow could not read ``size`` bytes."""
    if size == 0:
        return "empty file"
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow knows, or cut off in its header"
    return str(error) or type(error).__name__


@contextmanager
def _opened(
    file: File, rules: ImageRules, page: int
) -> Iterator[tuple[Image.Image | None, Layout]]:
    """Open a page with Pillow, or as None where only ``samples`` reads the file."""
    if rules.max_pixels > MAX_PIXELS:
        Image.MAX_IMAGE_PIXELS = None  # the check below is the limit
    try:
        image = Image.open(file)
    except UnidentifiedImageError:
        layout = samples.layout_of_tiff(file, page)
        if layout is None:
            raise
        _check_size(layout, rules)
        yield None, layout
        return
    with image:
        if page:
            image.seek(page)
        layout = samples.layout_of(image, file, page)
        _check_size(layout, rules)
        yield image, layout


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings of large images and odd EXIF. Not for threads: it is global."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_size(layout: Layout, rules: ImageRules) -> None:
    if layout.width * layout.height > rules.max_pixels:
        raise ValueError(
            f"{layout.width}x{layout.height} pixels is over the limit of {rules.max_pixels:,}; "
            f"--max-pixels {layout.width * layout.height} takes it"
        )


def _pixels(
    image: Image.Image | None,
    layout: Layout,
    data: bytes | memoryview,
    rules: ImageRules,
    page: int,
) -> NDArray[np.uint8]:
    check_bands(layout.bands, layout.has_alpha, rules.channels)
    if image is not None and layout.reader == "pillow" and layout.bits <= 8 and rules.is_color:
        return to_channels(ImageOps.exif_transpose(image), rules.channels, rules.background)
    pixels = _samples(image, layout, data, page)
    if pixels.dtype != np.uint8:
        limits, full = rules.range_of(layout), layout.full_range
        alpha = to_8_bits(pixels[..., layout.bands :], full, layout.bits)
        colors = pixels[..., : layout.bands] if rules.is_color else pixels
        pixels = to_8_bits(colors, limits, layout.bits)
        if rules.is_color:
            pixels = np.concatenate([pixels, alpha], axis=2)
    if not rules.is_color:
        return np.ascontiguousarray(pixels[..., : rules.channels])
    return to_channels(as_image(pixels), rules.channels, rules.background)


def _samples(
    image: Image.Image | None, layout: Layout, data: bytes | memoryview, page: int
) -> NDArray[Any]:
    """Return the stored samples, upright, (h, w, bands and alpha).

    Raises:
        ValueError: one is not finite.
    """
    found = samples.read(image, bytes(data), layout, page)
    if layout.is_float and not np.isfinite(found).all():
        raise ValueError("holds NaN or infinite samples")
    return found
