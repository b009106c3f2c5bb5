"""The samples that an image file stores, of any depth and number of bands.

Pillow reads most files in full. Of 16-bit colour it keeps the high bytes, so such files are decoded
twice, once for each byte. Bands that Pillow drops or refuses are read by tifffile.
"""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipelines.sources.depth import Range
from pipelines.sources.png import File, metadata_after_pixels, png_depth

ORIENTATION = 0x0112
"""EXIF's and TIFF's orientation tag; 5 to 8 exchange height and width."""
PAGED = frozenset(("TIFF", "GIF", "WEBP", "PNG", "AVIF", "FLI", "DCX"))
"""Formats whose frames are pages; the other pictures of an MPO, ICO or PSD are none."""
BITS = {"1": 1, "F": 32, "I": 32, "I;16": 16, "I;16B": 16, "I;16L": 16, "I;16N": 16}
"""Bits of a sample in Pillow's modes; 8 in all others."""
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
OTHER_BYTE = {";16B": ";16L", ";16L": ";16B", ";16N": ";16B"}
"""Pillow's raw modes by their ends: the one that takes the high byte, and the low byte."""
CONTAINERS = (0.0, 255.0, 65535.0, 2.0**31 - 1, 2.0**32 - 1)
"""Largest samples that describe the container and not what is in it."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a page is stored: its size before it is turned, and its samples."""

    format: str
    height: int
    width: int
    bands: int
    """Bands without transparency."""
    has_alpha: bool
    bits: int
    is_float: bool
    pages: int
    declared: Range | None = None
    """The range of the samples that the file declares, if it does and they have over 8 bits."""
    reader: Literal["pillow", "bytes", "pnm", "tifffile"] = "pillow"
    """Who reads the samples."""
    orientation: int = 1
    """The orientation that is left to apply, where Pillow does not read the samples."""
    white_is_zero: bool = False
    """Whether 0 is white, in a TIFF of over 8 bits."""

    @property
    def full_range(self) -> Range:
        """The range of transparency: the declared one, else all that the samples can hold."""
        return self.declared or (0.0, 1.0 if self.is_float else float(2**self.bits - 1))


def layout_of(image: Image.Image, file: File, page: int) -> Layout:
    """Return the layout of the page at which an opened image stands."""
    mode = image.mode
    name, alpha = image.format or "", image.has_transparency_data
    bands = 3 if mode in ("P", "PA", "CMYK") else len(image.getbands())
    bands -= mode in ("LA", "La", "RGBA", "RGBa")
    pages = int(getattr(image, "n_frames", 1)) if name in PAGED else 1
    found = Layout(
        name, image.height, image.width, bands, alpha, BITS.get(mode, 8), mode == "F", pages
    )
    if name == "TIFF":
        return _of_tiff(image, file, page, found)
    if name == "PNG":
        return _of_png(image, file, found)
    if name == "PPM":
        return _of_pnm(image, found)
    if name == "JPEG2000" and found.bits > 8:
        return replace(found, declared=(0.0, 65535.0))  # Pillow scales 9 to 15 bits up to 16
    return found


def layout_at(image: Image.Image | None, file: File, page: int) -> Layout:
    """Return the layout of a page; ``image`` is None if only tifffile reads the file."""
    found = layout_of_tiff(file, page) if image is None else layout_of(image, file, page)
    assert found is not None
    return found


def _of_pnm(image: Any, found: Layout) -> Layout:
    """A PGM or PPM declares its largest sample; Pillow hands it to its decoder."""
    arguments: Any = image.tile[0][3] if image.tile else ""
    if arguments == "I;16B":
        return replace(found, bits=16)
    if isinstance(arguments, tuple) and isinstance(arguments[1], int) and arguments[1] > 255:
        limit = float(arguments[1])
        declared = None if limit in CONTAINERS else (0.0, limit)
        return replace(found, bits=arguments[1].bit_length(), declared=declared, reader="pnm")
    return found


def _of_tiff(image: Image.Image, file: File, page: int, found: Layout) -> Layout:
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    kinds = set(_tuple(tags.get(339, (1,))))
    stored = max(_tuple(tags.get(258, (1,))))
    whole = tags.get(277, 1) == len(image.getbands())
    declared = _declared_by_tags(tags, stored) if stored > 8 else None
    if whole and kinds == {1} and (stored <= 8 or image.mode == "CMYK"):
        return replace(found, bits=min(found.bits, stored))
    if whole and image.mode in BITS and kinds <= {1, 2, 3} and (stored, kinds) != (32, {1}):
        white = tags.get(262) == 0
        return replace(found, bits=stored, declared=declared, white_is_zero=white)
    if whole and kinds == {1} and stored == 16 and _other_byte(_raw_mode(image)):
        return replace(found, bits=16, declared=declared, reader="bytes")
    own = layout_of_tiff(file, page)
    return found if own is None else own


def _raw_mode(image: Any) -> str:
    arguments: Any = image.tile[0][3] if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _other_byte(raw_mode: str) -> str:
    """Return the raw mode that takes the low bytes of 16-bit samples; empty without one."""
    name, end = raw_mode[:-4], raw_mode[-4:]
    return name + OTHER_BYTE[end] if name in ("RGB", "RGBA") and end in OTHER_BYTE else ""


def _declared_by_tags(tags: Any, bits: int) -> Range | None:
    """Return the range in a TIFF's tags, if it says more than the container's 16 or 32 bits."""
    for low, high in ((280, 281), (340, 341)):  # MinSampleValue, SMinSampleValue and the largest
        most = max((float(value) for value in _tuple(tags.get(high, ()))), default=0.0)
        least = min((float(value) for value in _tuple(tags.get(low, ()))), default=0.0)
        if most not in CONTAINERS and least < most:
            return least, most
    return (0.0, float(2**bits - 1)) if bits not in (16, 32, 64) else None


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def layout_of_tiff(file: File, page: int) -> Layout | None:
    """Return the layout of a TIFF's page by tifffile; None if the file is no TIFF."""
    file.seek(0)
    if file.read(4) not in TIFF_MAGIC:
        return None
    tiff = _tifffile(file)
    shown = tiff.pages[page]
    tags = {tag.code: tag.value for tag in shown.tags}
    bits, total = int(shown.bitspersample), int(shown.samplesperpixel)
    kind = int(shown.sampleformat)
    extra = tuple(int(value) for value in shown.extrasamples)
    alpha = total in (2, 4) and extra[-1:] in ((1,), (2,))
    return Layout(
        "TIFF", int(shown.imagelength), int(shown.imagewidth), total - alpha, alpha, bits,
        kind == 3, len(tiff.pages),
        (-128.0, 127.0) if (bits, kind) == (8, 2) else _declared_by_tags(tags, bits),
        "tifffile", int(tags.get(ORIENTATION, 1)), bits > 8 and tags.get(262) == 0,
    )  # fmt: skip


def _tifffile(file: File) -> Any:
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    file.seek(0)
    return tifffile.TiffFile(file)


def _of_png(image: Image.Image, file: File, found: Layout) -> Layout:
    raw_mode = _raw_mode(image)
    depth, significant = png_depth(file)
    if depth < 16:
        return replace(found, bits=depth)
    declared = (0.0, float(2**significant - 1)) if 0 < significant < 16 else None
    found = replace(found, bits=16, declared=declared)
    if image.mode == "I;16" and not found.has_alpha:
        return found
    bands = 1 if raw_mode[:2] in ("LA", "I;") else 3
    return replace(found, bands=bands, reader="bytes", orientation=orientation(image, file))


def orientation(image: Image.Image, file: File) -> int:
    """Return the orientation, 1 to 8, that is left to apply to an opened image; load no pixels."""
    if image.format == "TIFF":
        return 1  # Pillow has already turned it
    if image.format != "PNG":
        exif = image.getexif()
    elif not metadata_after_pixels(file):
        exif = Image.Image.getexif(image)  # PNG's own would decode the pixels
    else:
        before = file.tell()
        file.seek(0)
        with Image.open(io.BytesIO(file.read())) as whole:
            exif = whole.getexif()
        file.seek(before)
    return int(exif.get(ORIENTATION, 1))


def read(image: Image.Image | None, data: bytes, layout: Layout, page: int) -> NDArray[Any]:
    """Read the samples of a page, upright, (h, w, bands and alpha).

    Raises:
        ValueError: its compression needs a package that is not installed.
    """
    if image is None or layout.reader == "tifffile":
        pixels = _read_by_tifffile(data, layout, page)
    elif layout.reader == "bytes":
        pixels = _read_both_bytes(image, data, layout, page)
    elif layout.reader == "pnm":
        pixels = _read_pnm(image, data, layout)
    else:
        whole = ImageOps.exif_transpose(image)
        if whole.mode not in BITS and whole.mode not in ("L", "LA", "RGB", "RGBA"):
            whole = whole.convert("RGBA" if layout.has_alpha else "RGB")
        pixels = np.asarray(whole)
    pixels = upright(pixels.reshape(*pixels.shape[:2], -1), layout.orientation)
    return _in_range_of_png(pixels, layout)


def _in_range_of_png(pixels: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """Shift a PNG's samples to its significant bits.

    The specification puts the significant bits (sBIT) first; some writers of camera images put
    them last. Samples beyond 2^bits - 1 tell the first kind.
    """
    if layout.format != "PNG" or layout.declared is None:
        return pixels
    if float(pixels[..., : layout.bands].max()) <= layout.declared[1]:
        return pixels
    return np.asarray(pixels >> (16 - int(layout.declared[1]).bit_length()))


def _read_both_bytes(
    image: Image.Image, data: bytes, layout: Layout, page: int
) -> NDArray[np.uint16]:
    """Read 16-bit colour as its high bytes and its low bytes."""
    key = image.info.get("transparency")
    if image.mode == "I;16":
        pixels = np.asarray(image, np.uint16)[..., None]
    elif _raw_mode(image).startswith("LA"):
        pixels = _read_raw(data, page, "RGBA").view(">u2").astype(np.uint16)
    else:
        low = _other_byte(_raw_mode(image))
        pixels = np.asarray(image, np.uint16) * np.uint16(256) + _read_raw(data, page, low)
    if key is not None and pixels.shape[2] == layout.bands:
        visible = (pixels != np.array(key, np.uint16)).any(axis=2, keepdims=True)
        pixels = np.concatenate([pixels, np.where(visible, 65535, 0).astype(np.uint16)], axis=2)
    return pixels


def _read_raw(data: bytes, page: int, raw_mode: str) -> NDArray[np.uint8]:
    """Decode a page with another raw mode than the one Pillow has chosen."""
    with Image.open(io.BytesIO(data)) as image:
        if page:
            image.seek(page)
        tiles = []
        for tile in image.tile:
            given = tile.args
            args = (raw_mode, *given[1:]) if isinstance(given, tuple) else raw_mode
            tiles.append(tile._replace(args=args))
        image.tile = tiles
        return np.array(image)


def _read_pnm(image: Any, data: bytes, layout: Layout) -> NDArray[np.uint16]:
    name, _, offset, _ = image.tile[0]
    shape = (layout.height, layout.width, layout.bands)
    if name == "ppm_plain":
        text = b" ".join(line.split(b"#")[0] for line in data[offset:].splitlines())
        return np.array(text.split()[: np.prod(shape)], np.uint16).reshape(shape)
    count = int(np.prod(shape))
    return np.frombuffer(data, ">u2", count, offset).astype(np.uint16).reshape(shape)


def _read_by_tifffile(data: bytes, layout: Layout, page: int) -> NDArray[Any]:
    shown = _tifffile(io.BytesIO(data)).pages[page]
    try:
        pixels = np.asarray(shown.asarray())
    except ValueError as error:
        if "imagecodecs" in str(error):
            raise ValueError(f"{error}: pip install imagecodecs") from error
        raise
    if shown.planarconfig == 2 and shown.samplesperpixel > 1:
        pixels = np.moveaxis(pixels.reshape(-1, layout.height, layout.width), 0, 2)
    return pixels.reshape(layout.height, layout.width, -1)


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Undo EXIF's orientation, 1 to 8, of (h, w, c)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
