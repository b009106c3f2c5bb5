"""docs/images.md's table "What a file becomes": each row's file, through all three loaders."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image

from pipelines.beton.convert import convert
from pipelines.beton.encode import Settings
from pipelines.beton.format import open_beton
from pipelines.decoders import Crops
from pipelines.decoders.build import build_decoder
from pipelines.sources.folder import scan
from pipelines.sources.image_file import ImageRules
from pipelines.sources.table import Table
from tools.config.cli import parse
from tools.config.images import image_rules

SIDE = 16
Samples = list[float]
Files = dict[str, bytes]


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    file: str
    stored: Samples
    flags: str
    seen: str


def rows_of_the_table() -> list[Row]:
    page = Path(__file__).parents[2] / "docs/images.md"
    section = page.read_text().split("## What a file becomes")[1].split("\n## ")[0]
    rows = []
    for line in section.splitlines():
        if line.startswith("| ") and not line.startswith("| file "):
            file, stored, flags, seen = (cell.strip() for cell in line.strip("|").split("|"))
            rows.append(Row(file, [float(x) for x in stored.split()], flags.strip("`"), seen))
    return rows


def flat(values: Samples, kind: Any) -> NDArray[Any]:
    """An image of one colour: (16, 16), or (16, 16, n)."""
    image = np.tile(np.array(values, kind), (SIDE, SIDE, 1))
    return image[..., 0] if len(values) == 1 else image


def encoded(image: NDArray[Any] | Image.Image, name: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(out, name, **options)
    return out.getvalue()


def plain(name: str, **options: Any) -> Callable[[Samples], bytes]:
    return lambda stored: encoded(flat(stored, np.uint8), name, **options)


def tiff(kind: Any, *others: Samples, **options: Any) -> Callable[[Samples], Files]:
    """A TIFF, and others beside it that widen the set's range."""

    def make(stored: Samples) -> Files:
        files = {}
        for number, values in enumerate([stored, *others]):
            out = io.BytesIO()
            tifffile.imwrite(out, flat(values, kind), **options)
            files[f"{number}.tif"] = out.getvalue()
        return files

    return make


def deep_png(*others: Samples) -> Callable[[Samples], Files]:
    return lambda stored: {
        f"{number}.png": png16(flat(values, np.uint16))
        for number, values in enumerate([stored, *others])
    }


def png16(image: NDArray[np.uint16], *chunks: tuple[bytes, bytes]) -> bytes:
    """Encode a PNG of 16 bits, gray, RGB or RGBA, which Pillow cannot."""
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        check = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)

    bands = 1 if image.ndim == 2 else image.shape[2]
    color = {1: 0, 2: 4, 3: 2, 4: 6}[bands]
    header = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 16, color, 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in image)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def significant(stored: Samples) -> bytes:
    return png16(flat(stored, np.uint16), (b"sBIT", b"\x0c"))


def cmyk(stored: Samples) -> bytes:
    return encoded(Image.fromarray(flat(stored, np.uint8), "CMYK"), "JPEG")


def turned(stored: Samples) -> bytes:
    """The colour fills the lower left quarter, which orientation 6 turns to the upper left."""
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    image[SIDE // 2 :, : SIDE // 2] = stored
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, "JPEG", exif=exif, quality=95, subsampling=0)


def palette(name: str, **options: Any) -> Callable[[Samples], bytes]:
    def make(stored: Samples) -> bytes:
        image = Image.new("P", (SIDE, SIDE), 0)
        image.putpalette([int(value) for value in stored[:3]] * 2)
        return encoded(image, name, **options)

    return make


def pages(name: str, **options: Any) -> Callable[[Samples], bytes]:
    def make(stored: Samples) -> bytes:
        first, *rest = (Image.new("L", (SIDE, SIDE), int(value)) for value in stored)
        return encoded(first, name, save_all=True, append_images=rest, **options)

    return make


def mpo(stored: Samples) -> bytes:
    second = Image.new("RGB", (SIDE, SIDE), "blue")
    image = Image.fromarray(flat(stored, np.uint8))
    return encoded(image, "MPO", save_all=True, append_images=[second], quality=95)


def pnm(letter: bytes, largest: int) -> Callable[[Samples], bytes]:
    return lambda stored: (
        b"%s\n%d %d\n%d\n" % (letter, SIDE, SIDE, largest) + flat(stored, ">u2").tobytes()
    )


def one_bit(stored: Samples) -> bytes:
    return encoded(Image.new("1", (SIDE, SIDE), int(stored[0])), "PNG")


def damaged(_: Samples) -> Files:
    whole = encoded(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), "PNG")
    return {"empty.jpg": b"", "cut.png": whole[:20], "text.jpg": b"not an image"}


def bands(stored: Samples) -> Files:
    kind = "rgb" if len(stored) > 4 else "minisblack"
    return tiff(np.uint8, photometric=kind, planarconfig="contig")(stored)


COLORS = {
    "png": "PNG", "gif": "GIF", "bmp": "BMP", "tga": "TGA", "ppm": "PPM", "tif": "TIFF",
    "webp": "WEBP", "avif": "AVIF", "jp2": "JPEG2000",
}  # fmt: skip
EXACT: dict[str, Any] = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100}}
LINE = [4000.0]
MAKERS: dict[str, Callable[[Samples], bytes | Files]] = {
    "JPEG": plain("JPEG", quality=95),
    "JPEG, gray": plain("JPEG", quality=95),
    "JPEG, CMYK": cmyk,
    "JPEG, EXIF orientation 6": turned,
    "PNG, GIF, BMP, TGA, PPM, TIFF, WebP, AVIF, JPEG 2000": lambda stored: {
        f"a.{ending}": plain(name, **EXACT.get(name, {}))(stored) for ending, name in COLORS.items()
    },
    "PNG, palette": palette("PNG"),
    "PNG, 1 bit": one_bit,
    "any of colour": lambda stored: {
        "a.jpg": plain("JPEG", quality=95)(stored), "b.png": plain("PNG")(stored),
    },
    "PNG, transparent": plain("PNG"),
    "PNG, half transparent gray": plain("PNG"),
    "GIF and PNG, transparent palette": lambda stored: {
        "a.gif": palette("GIF", transparency=0)(stored),
        "b.png": palette("PNG", transparency=0)(stored),
    },
    "PNG, 16 bits, transparent": deep_png(),
    "PNG, 16 bits, the set's largest sample 4000": deep_png(LINE),
    "PNG, 16 bits, the set's largest sample 60000": deep_png([60000.0]),
    "PNG, 16 bits of colour, the set's largest sample 4000": deep_png(3 * LINE),
    "PNG, 16 bits, sBIT 12, low bits": significant,
    "PNG, 16 bits, sBIT 12, high bits": significant,
    "PGM, largest sample 1023": pnm(b"P5", 1023),
    "PPM, largest sample 1023": pnm(b"P6", 1023),
    "TIFF, 16 bits, MaxSampleValue 1000": tiff(np.uint16, extratags=[(281, "H", 1, 1000, True)]),
    "TIFF, 16 bits of colour, the set's largest sample 4000": tiff(
        np.uint16, 3 * LINE, photometric="rgb"
    ),
    "TIFF, 32-bit integers, the set's largest sample 100000": tiff(np.uint32, [100_000.0]),
    "TIFF, 16-bit integers, the set's smallest sample -1000, largest 1000": tiff(
        np.int16, [-1000.0], [1000.0]
    ),
    "TIFF, float, the set within 0 and 1": tiff(np.float32, [0.9]),
    "TIFF, float, the set's largest sample 4": tiff(np.float32, [4.0]),
    "TIFF, float, the set's smallest sample -1, largest 1": tiff(np.float32, [-1.0], [1.0]),
    "TIFF, float": tiff(np.float32),
    "TIFF or GIF of 3 pages, each of another gray": lambda stored: {
        "a.tif": pages("TIFF")(stored), "b.gif": pages("GIF")(stored),
    },
    "MPO, two pictures of a phone": mpo,
    "TIFF, 5 bands": bands,
    "TIFF, 4 bands": bands,
    "PNG of 4 channels": plain("PNG"),
    "TIFF, 5 bands, and a PNG of 3": lambda stored: bands(stored) | {
        "other.png": plain("PNG")(stored[:3])
    },
    "over the limit of pixels, 16 x 16": plain("PNG"),
    "damaged: empty, or cut off": damaged,
}  # fmt: skip


def seen_by(loader: str, table: Table) -> NDArray[np.uint8]:
    """The upper left pixel of each row, (n, channels)."""
    decoder = build_decoder(
        loader, table, interpolation="antialias", workers=1, device=torch.device("cpu"),
        on_bad="stop",
    )  # fmt: skip
    rows = np.arange(len(table))
    box = np.tile(np.array([0, 0, SIDE, SIDE], np.int32), (len(table), 1))
    crops = decoder(rows, [Crops(SIDE, rows, box)])[0]
    decoder.close()
    return np.asarray(crops[:, 1, 1])


def folder_of(rows: list[Row], folder: Path) -> dict[str, Row]:
    """Make the rows' files below a folder; return which row each is from."""
    origin = {}
    for number, row in enumerate(rows):
        made = MAKERS[row.file](row.stored)
        for name, data in (made if isinstance(made, dict) else {"0": made}).items():
            file = folder / f"{number:02}" / f"{name}.png"  # the ending does not count
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
            origin[str(file)] = row
    return origin


def groups() -> list[list[Row]]:
    """The rows that are accepted; one folder holds all with the same flags and no set's range."""
    found: dict[str, list[Row]] = {}
    for row in rows_of_the_table():
        if not row.seen.startswith("refused: "):
            alone = row.file if "the set" in row.file or "float" in row.file else ""
            found.setdefault(row.flags + alone, []).append(row)
    return list(found.values())


def rules_of(row: Row) -> ImageRules:
    return image_rules(parse(row.flags.split()))


def test_every_row_has_a_file() -> None:
    assert {row.file for row in rows_of_the_table()} == set(MAKERS)


@pytest.mark.parametrize(
    "row", [row for row in rows_of_the_table() if row.seen.startswith("refused: ")]
)
def test_a_file_is_refused_as_the_table_says(row: Row, tmp_path: Path) -> None:
    folder_of([row], tmp_path / "images")
    with pytest.raises(ValueError, match=re.escape(row.seen.removeprefix("refused: "))):
        scan(tmp_path / "images", tmp_path / "cache", "stop", None, rules_of(row))


@pytest.mark.parametrize("rows", groups(), ids=lambda rows: f"{rows[0].file} {rows[0].flags}")
def test_a_file_becomes_what_the_table_says(rows: list[Row], tmp_path: Path) -> None:
    origin = folder_of(rows, tmp_path / "images")
    table = scan(tmp_path / "images", tmp_path / "cache", "stop", None, rules_of(rows[0]))
    betons = []
    for keep in (True, False):
        path = tmp_path / f"{keep}.beton"
        convert(table, path, Settings(max_size=0, quality=95, keep_jpeg=keep, workers=1))
        betons.append(open_beton(path))
    found = {
        "memory": seen_by("memory", table),
        "dali": seen_by("dali", table),
        "ffcv": seen_by("ffcv", betons[0]),
        "ffcv, encoded again": seen_by("ffcv", betons[1]),
    }
    checked = set()
    for i in range(len(table)):
        name, _, page = table.source.name(i).partition("#")
        row = origin[name]
        pixels = re.findall(r"\d+(?: \d+)*", row.seen)
        want = [int(x) for x in pixels[int(page or 1) - 1].split()]
        if "the set" in row.file and not Path(name).name.startswith("0."):
            continue  # it widens the set's range
        checked.add(row.file)
        for loader, values in found.items():
            off = np.abs(values[i].astype(int) - want).max()
            assert off <= 3, (loader, row, values[i].tolist())
    assert checked == {row.file for row in rows}
