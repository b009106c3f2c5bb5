"""Image files of any kind: headers agree with pixels, ranges are one set's, rules are carried."""

import dataclasses
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image

import pipelines.beton.encode
import pipelines.sources.headers
import pipelines.sources.image_file
from pipelines import open_data
from pipelines.beton.convert import cached_beton, convert
from pipelines.beton.encode import Settings
from pipelines.beton.format import manifest_path, open_beton
from pipelines.decoders import Crops
from pipelines.decoders.build import build_decoder
from pipelines.sources.folder import OnBad, scan
from pipelines.sources.image_file import BadImage, ImageRules, decode, read_header
from pipelines.sources.table import Table
from tools.config.cli import from_saved, to_dict
from tools.config.config import Config
from tools.config.images import (
    image_rules,
    warn_of_late_rules,
    warn_of_other_range,
    with_measured_range,
)

RANDOM = np.random.default_rng(0)


def encoded(image: NDArray[Any] | Image.Image, name: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(out, name, **options)
    return out.getvalue()


def tiff(image: NDArray[Any], **options: Any) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, image, **options)
    return out.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def gray(height: int = 6, width: int = 9) -> NDArray[np.uint8]:
    return RANDOM.integers(0, 255, (height, width), np.uint8)


def scanned(folder: Path, rules: ImageRules | None = None, on_bad: OnBad = "stop") -> Table:
    return scan(folder, folder.parent / "cache", on_bad, None, rules or ImageRules())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_images_are_turned_as_pillow_turns_plain_ones(orientation: int) -> None:
    image = gray()
    want = decode(encoded(image, "PNG", exif=turned(orientation)), "")
    deep = image.astype(np.uint16) * 257
    tag = [(0x0112, "H", 1, orientation, True)]
    files = [
        encoded(deep, "PNG", exif=turned(orientation)),
        encoded(deep, "PNG", exif=turned(orientation), transparency=1),
        tiff(deep, extratags=tag),
        tiff(np.stack([deep] * 3, 2), photometric="rgb", extratags=tag),
        tiff(deep.astype(np.uint32), extratags=tag),
        tiff(deep.astype(np.float64) / 65535, extratags=tag),
    ]
    for number, data in enumerate(files):
        header = read_header(io.BytesIO(data))
        assert (header.height, header.width) == want.shape[:2], number
        assert np.array_equal(decode(data, "", ImageRules(int_range=(0.0, 65535.0))), want), number


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("bands", [1, 2, 3, 5])
def test_every_band_arrives_at_its_place(kind: Any, planar: str, bands: int) -> None:
    image = RANDOM.integers(0, 255, (6, 9, bands)).astype(kind)
    stored = np.moveaxis(image, 2, 0) if planar == "separate" else image
    photometric = "rgb" if bands in (3, 5) else "minisblack"
    if bands == 1:
        data = tiff(image[..., 0])
    else:
        data = tiff(stored, photometric=photometric, planarconfig=planar)
    rules = ImageRules(channels=bands, depth_range=(0.0, 255.0))
    assert read_header(io.BytesIO(data), rules).channels == bands
    assert np.array_equal(decode(data, "", rules), image.astype(np.uint8))


def test_a_set_is_measured_once_and_validation_images_take_its_range(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, largest in (("a", 3000), ("b", 4000)):
        (folder / f"{name}.png").write_bytes(encoded(np.full((4, 4), largest, np.uint16), "PNG"))
    first = scanned(folder)
    assert first.source.rules.int_range == (0, 4095)
    monkeypatch.setattr(pipelines.sources.headers, "measure", None)  # a second reading would fail
    assert scanned(folder).source.rules == first.source.rules
    assert scanned(folder, ImageRules(depth_range=(0.0, 4095.0))).source.rules == first.source.rules
    monkeypatch.undo()

    other = tmp_path / "val"
    other.mkdir()
    (other / "a.png").write_bytes(encoded(np.full((4, 4), 2048, np.uint16), "PNG"))
    alone = scan(other, tmp_path / "cache", "stop")
    same = scan(other, tmp_path / "cache", "stop", None, ImageRules().like(first.source.rules))
    assert (alone.source.pixels(0).max(), same.source.pixels(0).max()) == (128, 128)
    (other / "a.png").write_bytes(encoded(np.full((4, 4), 255, np.uint16), "PNG"))
    same = scan(other, tmp_path / "cache", "stop", None, ImageRules().like(first.source.rules))
    assert same.source.pixels(0).max() == 16

    kept = from_saved(to_dict(with_measured_range(Config(), first)), "run")
    assert image_rules(kept).depth_range == (0, 4095)
    public = open_data(f"folder:{other}", like=open_data(f"folder:{folder}"))
    assert public.table.source.pixels(0).max() == 16


def test_a_line_tells_the_range_and_the_pages(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "deep.png").write_bytes(encoded(np.full((4, 4), 3000, np.uint16), "PNG"))
    frames = [Image.new("L", (4, 4), value) for value in (1, 2, 3)]
    pages = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    (folder / "pages.tif").write_bytes(pages)
    with caplog.at_level("INFO"):
        assert len(scanned(folder)) == 2
    assert "0 to 4095 become 0 to 255 (--depth-range" in caplog.text
    assert "1 files have several pages, 3 in all" in caplog.text and "--pages all" in caplog.text
    table = scanned(folder, ImageRules(pages="all"))
    assert [Path(table.source.name(row)).name for row in range(4)] == [
        "deep.png", "pages.tif", "pages.tif#2", "pages.tif#3",
    ]  # fmt: skip
    assert [int(table.source.pixels(row).max()) for row in range(1, 4)] == [1, 2, 3]
    assert Path(table.take(np.array([3])).source.name(0)).name == "pages.tif#3"


def test_pages_of_other_sizes_have_their_own(folder: Path) -> None:
    frames = [Image.new("L", (4 + i, 5), 1) for i in range(3)]
    pages = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    (folder / "pages.tif").write_bytes(pages)
    with tifffile.TiffWriter(folder / "real.tif") as out:
        for i in range(3):
            out.write(np.full((5, 4 + i), i / 2, np.float64))
    table = scanned(folder, ImageRules(pages="all"))
    assert table.width.tolist() == [4, 5, 6, 4, 5, 6]
    assert [table.source.pixels(row).shape[1] for row in range(6)] == [4, 5, 6, 4, 5, 6]
    assert [int(table.source.pixels(row).max()) for row in range(3, 6)] == [0, 128, 255]


def test_transparency_of_16_bits_has_a_scale_of_its_own() -> None:
    """Colours are of the set's 12 bits, transparency of 16."""
    image = np.tile(np.array([2048, 2048, 2048, 32768], np.uint16), (4, 4, 1))
    data = tiff(image, photometric="rgb", extrasamples=["unassalpha"])
    seen = decode(data, "", ImageRules("black", int_range=(0.0, 4095.0)))
    assert np.abs(seen.astype(int) - 64).max() <= 1


def test_white_may_be_0() -> None:
    data = tiff(np.full((4, 4), 1000, np.uint16), photometric="miniswhite")
    assert (decode(data, "", ImageRules(int_range=(0.0, 4095.0))) == 255 - 62).all()
    assert read_header(io.BytesIO(data)).bits == 16


def test_signed_bytes_keep_their_order() -> None:
    data = tiff(np.array([[-128, 0, 127]], np.int8))
    assert decode(data, "")[0, :, 0].tolist() == [0, 128, 255]


def test_mixed_bands_name_a_file_of_each(folder: Path) -> None:
    five = tiff(np.zeros((6, 7, 5), np.uint8), photometric="rgb")
    (folder / "five.tif").write_bytes(five)
    (folder / "three.png").write_bytes(encoded(np.zeros((4, 4, 3), np.uint8), "PNG"))
    with pytest.raises(ValueError, match=r"(?s)five.tif: 5 bands.*--in-chans 5.*three.png: 3"):
        scanned(folder)
    with pytest.raises(ValueError, match=r"(?s)three.png: 3 bands, where --in-chans 5"):
        scanned(folder, ImageRules(channels=5))
    assert len(scanned(folder, on_bad="replace")) == 1


def test_samples_that_are_not_finite_are_named(folder: Path) -> None:
    data = tiff(np.array([[0.0, np.inf]], np.float32))
    (folder / "inf.tif").write_bytes(data)
    with pytest.raises(ValueError, match=r"inf\.tif: holds NaN or infinite samples"):
        scanned(folder)
    with pytest.raises(BadImage, match=r"a\.tif: holds NaN"):
        decode(data, "a.tif", ImageRules(depth_range=(0.0, 1.0)))


def test_hidden_colours_never_show() -> None:
    noise = RANDOM.integers(0, 255, (8, 8, 4), np.uint8)
    noise[..., 3] = 0
    for name, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("TGA", {})):
        for color, value in (("white", 255), ("#000", 0)):
            pixels = decode(encoded(noise, name, **options), "", ImageRules(color))
            assert (pixels == value).all(), (name, color)
    assert (decode(encoded(noise[..., 2:], "PNG"), "") == 255).all()
    one = decode(encoded(noise, "PNG"), "", ImageRules(channels=1))
    assert one.shape == (8, 8, 1) and (one == 255).all()


def test_unknown_rules_name_their_flags() -> None:
    for wrong, flag in (
        ({"background": "whiteish"}, "--background whiteish"),
        ({"depth_range": (5.0, 5.0)}, "--depth-range 5 5"),
        ({"channels": 0}, "--in-chans 0"),
        ({"max_pixels": 0}, "--max-pixels 0"),
    ):
        with pytest.raises(ValueError, match=flag):
            ImageRules(**wrong)  # type: ignore[arg-type]


def blank_png(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", b""), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def test_the_limit_of_pixels_can_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # restored afterwards
    data = blank_png(20_000, 20_000)
    with pytest.raises(Exception, match="limit"):
        read_header(io.BytesIO(data))
    header = read_header(io.BytesIO(data), ImageRules(max_pixels=400_000_000))
    assert header.width == 20_000


def test_large_jpegs_are_shrunk_while_they_are_decoded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    y, x = np.mgrid[:256, :400]
    image = np.stack([x * 255 // 400, y, np.full_like(x, 90)], 2).astype(np.uint8)
    data = encoded(image, "JPEG", quality=95)
    (folder / "large.jpg").write_bytes(data)
    for module in (pipelines.sources.image_file, pipelines.beton.encode):
        monkeypatch.setattr(module, "MAX_PIXELS", 50_000)
    rules = ImageRules(max_pixels=200_000)
    assert decode(data, "", rules, shrink_to=50).shape == (32, 50, 3)
    assert decode(data, "", rules, shrink_to=60).shape == (64, 100, 3)
    table, out = scanned(folder, rules), folder.parent / "a.beton"
    convert(table, out, Settings(max_size=60, workers=1))
    small = open_beton(out).source.pixels(0)
    assert small.shape == (38, 60, 3)
    want = np.asarray(Image.fromarray(image).resize((60, 38), Image.Resampling.LANCZOS))
    assert np.abs(small.astype(int) - want).mean() < 3
    with pytest.raises(ValueError, match="set --max-size"):
        convert(table, out, Settings(max_size=0, workers=1))


@pytest.fixture
def damaged(folder: Path) -> Path:
    """Three whole images, and a JPEG and a PNG that are cut off behind their headers."""
    for i in range(3):
        image = np.full((32, 48, 3), 60 * (i + 1), np.uint8)
        (folder / f"{i}.jpg").write_bytes(encoded(image, "JPEG", quality=95))
    noise = RANDOM.integers(0, 255, (40, 40, 3), np.uint8)
    (folder / "0cut.jpg").write_bytes(encoded(noise, "JPEG")[:-400])
    (folder / "1cut.png").write_bytes(encoded(noise, "PNG")[:-400])
    return folder


def test_damaged_images_leave_one_table_whatever_the_loader(damaged: Path) -> None:
    table = scanned(damaged, on_bad="replace")
    beton = cached_beton(table, "damaged", on_bad="replace")
    assert len(table) == 5
    for column in ("label", "height", "width"):
        assert np.array_equal(getattr(beton, column), getattr(table, column)), column
    rows = np.arange(5)
    box = np.stack([0 * rows, 0 * rows, table.height, table.width], 1).astype(np.int32)
    seen = {}
    for loader, rows_of in (("dali", table), ("ffcv", beton)):
        decoder = build_decoder(
            loader, rows_of, interpolation="antialias", workers=1, device=torch.device("cpu"),
            on_bad="replace",
        )  # fmt: skip
        seen[loader] = decoder(rows, [Crops(16, rows, box)])[0][:, 8, 8, 0].numpy().copy()
        assert decoder.replaced == 2
        decoder.close()
    assert np.abs(seen["dali"].astype(int) - [60, 120, 120, 180, 180]).max() <= 3, seen
    assert np.abs(seen["ffcv"].astype(int) - seen["dali"]).max() <= 3, seen


def test_a_beton_knows_what_its_files_became(folder: Path, tmp_path: Path) -> None:
    (folder / "a.png").write_bytes(encoded(np.full((4, 4), 3000, np.uint16), "PNG"))
    table = scanned(folder, ImageRules("black"))
    out = tmp_path / "a.beton"
    convert(table, out, Settings(max_size=0, workers=1))
    assert open_beton(out).source.rules == table.source.rules
    assert table.source.rules == dataclasses.replace(ImageRules("black"), int_range=(0.0, 4095.0))
    manifest = json.loads(manifest_path(out).read_text())
    manifest["rules"]["background"] = "nocolour"
    manifest_path(out).write_text(json.dumps(manifest))
    assert open_beton(out).source.rules == ImageRules()


def test_a_beton_of_another_range_or_rule_is_warned_of(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "a.png").write_bytes(encoded(np.full((4, 4), 3000, np.uint16), "PNG"))
    train = scanned(folder)
    convert(scanned(folder, ImageRules(depth_range=(0.0, 9.0))), tmp_path / "a.beton", Settings())
    val = open_beton(tmp_path / "a.beton")
    warn_of_other_range(train, train, "folder:images")
    warn_of_late_rules(val, ImageRules(), "a.beton")
    warn_of_late_rules(train, ImageRules("black", pages="all"), "folder:images")
    assert not caplog.messages
    warn_of_other_range(train, val, "a.beton")
    assert "from 0 to 9" in caplog.text and "--depth-range 0 4095" in caplog.text
    warn_of_late_rules(val, ImageRules("black", pages="all"), "a.beton")
    assert "--background black needs" in caplog.text and "--pages all needs" in caplog.text


def test_channels_are_gray_by_luma() -> None:
    color = np.full((4, 4, 3), (200, 100, 50), np.uint8)
    pixels = decode(encoded(color, "PNG"), "", ImageRules(channels=1))
    want = round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    assert pixels.shape == (4, 4, 1) and (pixels == want).all()
