"""The contract of all decoders: PIL's crops, each image decoded once, no batch dropped."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from PIL import Image

from pipelines.beton.convert import CACHE_SETTINGS, convert
from pipelines.beton.format import MIN_PAGE_SIZE, Sample, open_beton
from pipelines.beton.writer import write_beton
from pipelines.decoders import Crops, Decoder, MissingPackage
from pipelines.decoders import memory as memory_module
from pipelines.decoders.build import build_decoder, choose_loader
from pipelines.decoders.dali import GpuDecoder
from pipelines.decoders.jpeg import is_plain_jpeg
from pipelines.decoders.memory import MemoryDecoder, fits
from pipelines.decoders.pil import crops_with_pil
from pipelines.decoders.resample import FILTER_IDS, cut, weight_matrix
from pipelines.settings import Interpolation
from pipelines.sources.arrays import Arrays
from pipelines.sources.beton import Beton
from pipelines.sources.files import Files
from pipelines.sources.image_file import BadImage, decode_with_pil
from pipelines.sources.table import Table
from pipelines.system.stored_file import LocalFile
from tools.config.config import Config, flag
from tools.engine import build

DATA = Path(__file__).parents[3] / "shared" / "data"
CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
GREY_LEVELS = 2.0
"""How far a crop may be from PIL's on average: libffcv's fast DCT takes 1.2 of it."""


# --- pictures and tables -------------------------------------------------------------------


def picture(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Smooth colours with some texture, (h, w, 3)."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def jpeg(pixels: NDArray[np.uint8], **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", **{"quality": 90, **options})
    return out.getvalue()


def sizes_of(blobs: Sequence[bytes | NDArray[np.uint8]]) -> NDArray[np.int32]:
    """Upright height and width, (n, 2)."""
    shapes = [b.shape if isinstance(b, np.ndarray) else decode_with_pil(b, "").shape for b in blobs]
    return np.array([shape[:2] for shape in shapes], np.int32)


def table_of(source: Any, sizes: NDArray[np.int32]) -> Table:
    label = np.full(len(sizes), -1, np.int64)
    return Table(label, sizes[:, 0].copy(), sizes[:, 1].copy(), source)


def files(folder: Path, blobs: Sequence[bytes], sizes: NDArray[np.int32] | None = None) -> Table:
    names = [f"{i}.JPEG" for i in range(len(blobs))]
    for name, blob in zip(names, blobs, strict=True):
        (folder / name).write_bytes(blob)
    return table_of(Files(folder, names), sizes_of(blobs) if sizes is None else sizes)


def beton(
    folder: Path,
    blobs: Sequence[bytes | NDArray[np.uint8]],
    sizes: NDArray[np.int32] | None = None,
) -> Table:
    """Bytes are jpg rows, arrays raw ones."""
    sizes = sizes_of(blobs) if sizes is None else sizes
    data = [b if isinstance(b, bytes) else b.tobytes() for b in blobs]
    (folder / "rows").write_bytes(b"".join(data))
    size = np.array([len(d) for d in data], np.uint64)
    jpg = np.array([isinstance(b, bytes) for b in blobs])
    height, width = sizes[:, 0].copy(), sizes[:, 1].copy()
    offset = np.cumsum(size) - size
    return table_of(Beton(LocalFile(folder / "rows"), offset, size, jpg, height, width), sizes)


def decoder(loader: str, table: Table, **options: Any) -> Decoder:
    if loader == "ffcv":
        pytest.importorskip("ffcv")
    if loader.startswith("dali"):
        pytest.importorskip("nvidia.dali")
    if loader == "dali-windows":
        from pipelines.decoders.dali import DaliDecoder

        return DaliDecoder(table, device=CPU, cut_on_host=False, **options)
    if loader == "memory-products":
        return MemoryDecoder(table, device=CPU, cut_on_host=False, **options)
    options = {"interpolation": "antialias", "workers": 2, "on_bad": "stop", **options}
    return build_decoder(loader, table, device=CPU, **options)


def windows(table: Table, rows: NDArray[np.int64], take: Any, size: int, seed: int = 0) -> Crops:
    """Random boxes, every third the whole image."""
    rng = np.random.default_rng(seed)
    boxes = []
    for j, row in enumerate(rows[take]):
        limit = np.array([table.height[row], table.width[row]])
        extent = limit if j % 3 == 0 else rng.integers(np.maximum(limit // 4, 1), limit + 1)
        boxes.append([*rng.integers(0, limit - extent + 1), *extent])
    return Crops(size, np.asarray(take, np.int64), np.array(boxes, np.int32).reshape(-1, 4))


def expected(
    table: Table, rows: NDArray[np.int64], view: Crops, law: Interpolation
) -> NDArray[np.uint8]:
    made = [
        crops_with_pil(table.source.pixels(int(rows[i])), box[None], [view.size], law)[0]
        for i, box in zip(view.take, view.box, strict=True)
    ]
    return np.stack(made)


def gap(a: Any, b: Any) -> NDArray[np.float64]:
    """Mean absolute difference of each crop, in grey levels."""
    return np.abs(np.asarray(a).astype(float) - np.asarray(b)).mean((1, 2, 3))


def archive(name: str) -> dict[str, bytes]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    with tarfile.open(path) as tar:
        members = [m for m in tar if m.isfile()]
        return {m.name.removeprefix("./"): tar.extractfile(m).read() for m in members}  # type: ignore[union-attr]


SIZES = [(90, 120), (375, 500), (64, 33), (33, 200), (48, 48), (224, 224), (301, 97)]


def made_pictures() -> list[NDArray[np.uint8]]:
    return [picture(h, w, seed) for seed, (h, w) in enumerate(SIZES)]


def make_table(kind: str, folder: Path) -> Table:
    pictures = made_pictures()
    blobs = [jpeg(p, subsampling=i % 3, progressive=i == 4) for i, p in enumerate(pictures)]
    if kind == "files":
        return files(folder, blobs)
    if kind == "beton":
        return beton(folder, blobs)
    if kind == "beton raw and jpg":
        return beton(folder, [p if i % 2 else b for i, (p, b) in enumerate(zip(pictures, blobs))])  # noqa: B905
    same = [picture(40, 56, seed) for seed in range(7)]
    if kind == "files of one size":
        return files(folder, [jpeg(p) for p in same])
    return table_of(Arrays("made", np.stack(same)), sizes_of(same))


PAIRS = [
    ("ffcv", "beton"),
    ("ffcv", "beton raw and jpg"),
    ("dali", "files"),
    ("dali", "beton raw and jpg"),
    ("dali-windows", "files"),
    ("dali-windows", "beton raw and jpg"),
    ("memory", "files of one size"),
    ("memory", "arrays"),
    ("memory-products", "arrays"),
]


# --- the contract --------------------------------------------------------------------------


@pytest.mark.parametrize("law", ["antialias", "bicubic", "bilinear"])
@pytest.mark.parametrize(("loader", "kind"), PAIRS)
def test_crops_are_those_of_pil(loader: str, kind: str, law: Interpolation, tmp_path: Path) -> None:
    table = make_table(kind, tmp_path)
    made = decoder(loader, table, interpolation=law)
    before = made.decodes
    rows = np.array([5, 0, 3, 1, 6])
    crops = [
        windows(table, rows, [0, 1, 2, 3, 4], 64, 1),
        windows(table, rows, [4, 4, 0, 3, 3, 3, 1], 33, 2),  # duplicates, some rows not at all
        windows(table, rows, [], 16),
        windows(table, rows, [2], 7, 3),
    ]
    views = made(rows, crops)
    assert [tuple(v.shape) for v in views] == [(len(c.take), c.size, c.size, 3) for c in crops]
    for view, crop in zip(views, crops, strict=True):
        assert view.dtype == torch.uint8
        assert view.is_contiguous()
        if len(crop.take):
            assert gap(view, expected(table, rows, crop, law)).max() < GREY_LEVELS
    assert made.decodes - before == (0 if loader.startswith("memory") else len(rows))  # law 7
    assert made.replaced == 0
    made.close()


@pytest.mark.parametrize("loader", ["ffcv", "dali"])
def test_file_of_our_writer(loader: str, tmp_path: Path) -> None:
    pictures = made_pictures()
    samples = [
        Sample(p.tobytes() if i % 2 else jpeg(p), *p.shape[:2], jpg=i % 2 == 0, label=i)
        for i, p in enumerate(pictures)
    ]
    write_beton(tmp_path / "set.beton", samples, len(samples), MIN_PAGE_SIZE)
    table = open_beton(tmp_path / "set.beton")
    rows = np.arange(len(samples))
    crop = windows(table, rows, rows, 40)
    view = decoder(loader, table)(rows, [crop])[0]
    assert gap(view, expected(table, rows, crop, "antialias")).max() < GREY_LEVELS


@pytest.mark.parametrize("law", ["antialias", "bicubic"])
@pytest.mark.parametrize("loader", ["ffcv", "dali", "dali-windows"])
def test_real_photographs(loader: str, law: Interpolation, tmp_path: Path) -> None:
    blobs = [b for n, b in sorted(archive("imagenet-jpeg.tar").items()) if n.endswith("JPEG")]
    blobs = blobs[:16] + [b for b in blobs if Image.open(io.BytesIO(b)).mode == "L"]
    table = (beton if loader == "ffcv" else files)(tmp_path, blobs)
    rows = np.arange(len(blobs))
    crops = [windows(table, rows, rows, size, size) for size in (224, 96)]
    made = decoder(loader, table, interpolation=law)
    for view, crop in zip(made(rows, crops), crops, strict=True):
        assert gap(view, expected(table, rows, crop, law)).mean() < GREY_LEVELS


@pytest.mark.parametrize("loader", ["ffcv", "dali", "dali-windows"])
def test_any_number_of_workers_gives_the_same_bits(loader: str, tmp_path: Path) -> None:
    kind = "beton" if loader == "ffcv" else "files"
    table = make_table(kind, tmp_path)
    rows = np.arange(7)
    crops = [windows(table, rows, rows, 48, 1), windows(table, rows, rows[::-1], 20, 2)]
    first, *others = [decoder(loader, table, workers=n)(rows, crops) for n in (1, 2, 3)]
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(("loader", "kind"), PAIRS)
def test_no_crops_is_decode_only(loader: str, kind: str, tmp_path: Path) -> None:
    made = decoder(loader, make_table(kind, tmp_path))
    before = made.decodes
    assert made(np.array([2, 3]), []) == []
    assert made.decodes - before == (0 if loader.startswith("memory") else 2)


@pytest.mark.parametrize(("loader", "kind"), PAIRS)
@pytest.mark.parametrize("box", [(-1, 0, 5, 5), (0, 0, 41, 5), (0, 57, 5, 999), (0, 0, 0, 5)])
def test_box_outside_the_image_is_refused(
    loader: str, kind: str, box: tuple[int, ...], tmp_path: Path
) -> None:
    made = decoder(loader, make_table(kind, tmp_path))
    with pytest.raises(ValueError, match="not inside"):
        made(np.array([4]), [Crops(8, np.zeros(1, np.int64), np.array([box], np.int32) * 2)])


@pytest.mark.parametrize("loader", ["ffcv", "dali", "dali-windows"])
def test_extreme_shapes(loader: str, tmp_path: Path) -> None:
    shapes = [(1, 1), (2, 3000), (3000, 2), (8, 8), (1, 700)]
    blobs = [jpeg(picture(h, w, h + w)) for h, w in shapes]
    table = (beton if loader == "ffcv" else files)(tmp_path, blobs)
    rows = np.arange(len(blobs))
    for law in ("antialias", "bicubic"):
        crop = windows(table, rows, rows, 32)
        view = decoder(loader, table, interpolation=law)(rows, [crop])[0]
        assert gap(view, expected(table, rows, crop, law)).max() < GREY_LEVELS


# --- bad images ----------------------------------------------------------------------------


def with_warning() -> bytes:
    """A JPEG whose scan is damaged: PIL reads it, libffcv reads it and complains."""
    data = bytearray(jpeg(picture(120, 160, 9)))
    middle = len(data) // 2
    data[middle : middle + 24] = bytes([0x55, 0xAA, 0x12, 0x00, 0x13, 0x7E] * 4)
    decode_with_pil(bytes(data), "damaged")
    return bytes(data)


def bad_batch(loader: str, folder: Path) -> tuple[Table, Table]:
    """A table whose row 2 is cut off and row 4 damaged, and the same with row 3 as row 2."""
    good = [jpeg(picture(60 + 9 * i, 90, i)) for i in range(6)]
    good[4] = with_warning()
    sizes = sizes_of(good)
    bad = [*good[:2], good[2][: len(good[2]) * 6 // 10], *good[3:]]
    kind = beton if loader == "ffcv" else files
    (folder / "good").mkdir()
    return kind(folder, bad, sizes), kind(folder / "good", good)


FAST = ["ffcv", "dali", "dali-windows"]


@pytest.mark.parametrize("loader", FAST)
def test_bad_row_stops_by_name(loader: str, tmp_path: Path) -> None:
    table, _ = bad_batch(loader, tmp_path)
    rows = np.arange(6)
    with pytest.raises(BadImage) as caught:
        decoder(loader, table)(rows, [windows(table, rows, rows, 32)])
    assert table.source.name(2) in str(caught.value)


@pytest.mark.parametrize("loader", FAST)
def test_bad_row_is_replaced_by_the_next(loader: str, tmp_path: Path) -> None:
    table, good = bad_batch(loader, tmp_path)
    rows = np.array([0, 4, 2, 5])
    crops = [windows(table, rows, [0, 1, 2, 3, 2], 32)]
    made = decoder(loader, table, on_bad="replace")
    view = made(rows, crops)[0]
    assert (made.replaced, made.bad_rows) == (1, {2})
    assert made.decodes == 4
    assert gap(view, expected_after_replacement(good, rows, crops[0])).max() < GREY_LEVELS
    alone = made(np.array([2]), [Crops(32, np.zeros(1, np.int64), crops[0].box[2:3])])[0]
    assert torch.equal(alone[0], view[2])  # whatever else is in the batch


def expected_after_replacement(
    good: Table, rows: NDArray[np.int64], crop: Crops
) -> NDArray[np.uint8]:
    """Row 3 stands in for row 2, each box at the same place relative to the image."""
    stand_in = np.where(rows == 2, 3, rows)
    box = crop.box.astype(float)
    for j, i in enumerate(crop.take):
        if rows[i] == 2:
            box[j, [0, 2]] *= good.height[3] / good.height[2]
            box[j, 0] = np.floor(box[j, 0])
    return expected(good, stand_in, Crops(crop.size, crop.take, box.round().astype(np.int32)),
                    "antialias")  # fmt: skip


@pytest.mark.parametrize("loader", FAST)
def test_damaged_row_is_what_pil_makes_of_it(loader: str, tmp_path: Path) -> None:
    blobs = [jpeg(picture(50, 70, 1)), with_warning(), jpeg(picture(70, 50, 2))]
    table = (beton if loader == "ffcv" else files)(tmp_path, blobs)
    rows = np.arange(3)
    crop = windows(table, rows, rows, 40)
    view = decoder(loader, table)(rows, [crop])[0]
    distance = gap(view, expected(table, rows, crop, "antialias"))
    assert distance.max() < GREY_LEVELS
    assert distance[1] < 0.3  # the slow DCT: not libffcv's picture


@pytest.mark.parametrize("loader", FAST)
def test_file_of_another_size_than_the_table_says(loader: str, tmp_path: Path) -> None:
    blobs = [jpeg(picture(h, 64, h)) for h in (64, 32, 64)]
    sizes = np.full((3, 2), 64, np.int32)
    table = (beton if loader == "ffcv" else files)(tmp_path, blobs, sizes)
    rows = np.arange(3)
    crop = [windows(table, rows, rows, 16)]
    with pytest.raises(BadImage, match="changed since the table was built"):
        decoder(loader, table)(rows, crop)
    made = decoder(loader, table, on_bad="replace")
    made(rows, crop)
    assert made.replaced == 1


def test_all_bad_is_an_error_even_when_replacing(tmp_path: Path) -> None:
    table = files(tmp_path, [b"", b"no image"], np.full((2, 2), 8, np.int32))
    with pytest.raises(BadImage, match="any other row"):
        decoder("dali", table, on_bad="replace")(np.arange(2), [])
    with pytest.raises(BadImage, match=r"0\.JPEG"):
        decoder("memory", table)


def test_deleted_file_is_named(tmp_path: Path) -> None:
    table = make_table("files", tmp_path)
    (tmp_path / "3.JPEG").unlink()
    with pytest.raises(BadImage, match=r"3\.JPEG.*--on-bad-image replace"):
        decoder("dali", table)(np.arange(5), [])


# --- files that are not plain JPEGs --------------------------------------------------------


def odd_blobs() -> list[bytes]:
    pixels = picture(40, 60, 5)
    image = Image.fromarray(pixels)
    png, cmyk = io.BytesIO(), io.BytesIO()
    image.save(png, "PNG")
    image.convert("CMYK").save(cmyk, "JPEG")
    turned = []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned.append(jpeg(pixels, exif=exif))
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'
    by_xmp = jpeg(pixels)
    by_xmp = by_xmp[:2] + b"\xff\xe1" + (len(xmp) + 2).to_bytes(2, "big") + xmp + by_xmp[2:]
    plain = [jpeg(pixels), jpeg(pixels, keep_rgb=True), jpeg(pixels[:, :, 0]), jpeg(pixels) + b"x"]
    return [*plain, *turned, by_xmp, png.getvalue(), cmyk.getvalue()]


@pytest.mark.parametrize("loader", ["ffcv", "dali", "dali-windows"])
def test_odd_files_are_upright_rgb(loader: str, tmp_path: Path) -> None:
    blobs = odd_blobs()
    table = (beton if loader == "ffcv" else files)(tmp_path, blobs)
    assert (60, 40) in zip(table.height, table.width, strict=True)  # some are turned by PIL
    rows = np.arange(len(blobs))
    crop = windows(table, rows, rows, 24)
    view = decoder(loader, table)(rows, [crop])[0]
    assert gap(view, expected(table, rows, crop, "antialias")).max() < GREY_LEVELS


@pytest.mark.parametrize("loader", ["ffcv", "dali"])
def test_nasty_files_are_those_of_pil(loader: str, tmp_path: Path) -> None:
    found = archive("nasty.tar")
    notes = json.loads(next(b for n, b in found.items() if n.endswith("manifest.json")))
    wanted = [e["name"] for e in notes if e["name"].startswith("ok/") and "big" not in e["name"]]
    blobs = [next(b for n, b in found.items() if n.endswith(name)) for name in wanted]
    table = (beton if loader == "ffcv" else files)(tmp_path, blobs)
    rows = np.arange(len(blobs))
    crop = windows(table, rows, rows, 48)
    view = decoder(loader, table)(rows, [crop])[0]
    assert gap(view, expected(table, rows, crop, "antialias")).max() < GREY_LEVELS


def test_header_reader_survives_any_bytes() -> None:
    whole = np.frombuffer(odd_blobs()[6], np.uint8)
    assert is_plain_jpeg(np.frombuffer(jpeg(picture(40, 60, 5)), np.uint8), 40, 60)
    rng = np.random.default_rng(0)
    for _ in range(2000):
        data = whole[: rng.integers(0, len(whole))].copy()
        for place in rng.integers(0, max(len(data), 1), 3):
            data[place : place + 2] = rng.integers(0, 256)
        is_plain_jpeg(data, 40, 60)


# --- the filter law ------------------------------------------------------------------------


@pytest.mark.parametrize("law", FILTER_IDS)
def test_matrices_and_compiled_code_agree(law: Interpolation) -> None:
    pixels = picture(90, 70, 0)
    for box in [(0, 0, 90, 70), (3, 5, 17, 64), (89, 69, 1, 1), (10, 0, 33, 2)]:
        for size in (1, 24, 100):
            out = np.empty((size, size, 3), np.uint8)
            cut(pixels, *box, FILTER_IDS[law], out)
            images, boxes = torch.from_numpy(pixels)[None], torch.tensor([box])
            other = memory_module.cut_by_matrices(images, boxes, size, law)[0].numpy()
            assert np.abs(out.astype(int) - other).max() <= 1
            assert (out != other).mean() < 0.05  # halves may round either way


@pytest.mark.parametrize(("law", "most"), [("antialias", 1), ("bicubic", 2), ("bilinear", 2)])
def test_compiled_code_is_pil_to_its_rounding(law: Interpolation, most: int) -> None:
    pixels = picture(200, 300, 0)
    for box in [(0, 0, 200, 300), (20, 33, 61, 47), (5, 5, 1, 200), (150, 280, 3, 3)]:
        out = np.empty((64, 64, 3), np.uint8)
        cut(pixels, *box, FILTER_IDS[law], out)
        other = crops_with_pil(pixels, np.array([box], np.int32), [64], law)[0]
        assert np.abs(out.astype(int) - other).max() <= most


def test_area_is_the_mean_of_what_is_covered() -> None:
    pixels = picture(60, 90, 0)
    out = np.empty((20, 20, 3), np.uint8)
    cut(pixels, 0, 0, 60, 90, FILTER_IDS["area"], out)
    fine = pixels.repeat(2, 1).reshape(20, 3, 20, 9, 3).mean((1, 3))  # 4.5 pixels wide
    assert np.abs(out - fine).max() <= 0.51


@pytest.mark.parametrize("law", FILTER_IDS)
def test_weights_sum_to_one_inside_the_box(law: Interpolation) -> None:
    weights = weight_matrix(torch.tensor([3, 0]), torch.tensor([5, 12]), 12, 7, law)
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 7))
    assert (weights[0, :, :3] == 0).all()
    assert (weights[0, :, 8:] == 0).all()


# --- DALI's own settings -------------------------------------------------------------------


def test_gpu_settings_are_dali_s_arguments_in_its_units() -> None:
    assert GpuDecoder().arguments() == {}
    documented = {  # of decoders.image in DALI 2.4
        "device_memory_padding": 16777216,
        "host_memory_padding": 8388608,
        "hw_decoder_load": 0.65,
    }
    assert GpuDecoder(16.0, 8.0, 0.65).arguments() == documented
    assert GpuDecoder(hw_decoder_load=0.0).arguments() == {"hw_decoder_load": 0.0}


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_cuda])]
)
def test_gpu_settings_change_no_pixel(device: str, tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali")
    table = files(tmp_path, [*(jpeg(p) for p in made_pictures()), *odd_blobs()])  # some are PIL's
    rows = np.arange(len(table))
    crops = [windows(table, rows, rows, size, size) for size in (48, 20)]
    place = torch.device(device, 0) if device == "cuda" else CPU
    found = []
    for gpu in (GpuDecoder(), GpuDecoder(2.5, 1.0, 0.0)):
        made = build_decoder("dali", table, interpolation="antialias", workers=2, device=place,
                             on_bad="stop", gpu=gpu)  # fmt: skip
        for _ in range(3):
            found.append([view.cpu() for view in made(rows, crops)])
        made.close()
    for view, *others in zip(*found, strict=True):
        assert all(torch.equal(view, other) for other in others)
    for view, crop in zip(found[0], crops, strict=True):
        assert gap(view, expected(table, rows, crop, "antialias")).max() < GREY_LEVELS


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("prefetch", -1),
        ("dali_device_memory_padding", -1.0),
        ("dali_host_memory_padding", float("nan")),
        ("dali_hw_decoder_load", 1.5),
    ],
)
def test_wrong_settings_name_their_flag(name: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=f"{flag(name)} must be"):
        Config(**{name: wrong})


def test_gpu_settings_without_effect_are_said_to_have_none(tmp_path: Path) -> None:
    table = make_table("arrays", tmp_path)
    for config, words in (
        (Config(loader="memory", dali_hw_decoder_load=0.5), "--dali-hw-decoder-load: no effect"),
        (Config(loader="memory"), None),
    ):
        said: list[str] = []
        decoders = build.Decoders(config, Accelerator(cpu=True), said.append)
        decoders.of(table)
        decoders.close()
        assert [line for line in said if "no effect" in line] == [
            line for line in said[1:] if words and line.startswith(words)
        ]
        assert bool(words) == (len(said) == 2)


# --- memory, choice, missing packages ------------------------------------------------------


def test_memory_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = make_table("arrays", tmp_path)
    rows = np.arange(7)
    made = MemoryDecoder(table, device=CPU, cut_on_host=False)
    crops = [windows(table, rows, rows, 24), windows(table, rows, [], 24)]
    whole = made(rows, crops)
    monkeypatch.setattr(memory_module, "CHUNK_BYTES", 1)
    for a, b in zip(whole, made(rows, crops), strict=True):
        torch.testing.assert_close(a, b, atol=1, rtol=0)


def test_memory_wants_one_size(tmp_path: Path) -> None:
    table = make_table("files", tmp_path)
    assert not fits(table, 10**9)
    sizes = len({(int(h), int(w)) for h, w in zip(table.height, table.width, strict=True)})
    with pytest.raises(ValueError, match="--loader memory") as refused:
        decoder("memory", table)
    assert f"the {len(table)} have {sizes}, as {table.source.name(0)} (" in str(refused.value)


def test_auto_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same, mixed = make_table("arrays", tmp_path), make_table("files", tmp_path)
    bytes_of_pixels = 7 * 40 * 56 * 3
    cuda = torch.device("cuda")

    def choice(table: Table, device: torch.device, budget: int, data_is_beton: bool) -> str:
        return choose_loader(table, device, budget, data_is_beton=data_is_beton)[0]

    for installed in (True, False):
        found = object() if installed else None
        monkeypatch.setattr("importlib.util.find_spec", lambda _, found=found: found)
        assert choice(same, CPU, bytes_of_pixels, True) == "memory"
        assert choice(same, CPU, bytes_of_pixels - 1, True) == ("ffcv" if installed else "dali")
        assert choice(mixed, cuda, 10**9, True) == ("ffcv" if installed else "dali")
        assert choice(mixed, cuda, 10**9, False) == "dali"
        assert choice(mixed, CPU, 10**9, False) == ("ffcv" if installed else "dali")
        huge = dataclasses.replace(mixed, width=np.full_like(mixed.width, 70_000))
        assert choice(huge, CPU, 10**9, False) == "dali"  # no row of a .beton holds it


@pytest.mark.parametrize(
    ("loader", "module", "package"),
    [
        ("ffcv", "ffcv", "ffcv"),
        ("dali", "nvidia.dali.experimental.dynamic", "nvidia-dali-cuda130"),
    ],
)
def test_missing_package_is_named(
    loader: str, module: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    table = make_table("beton", tmp_path)
    options: dict[str, Any] = {"interpolation": "antialias", "workers": 1, "on_bad": "stop"}
    with pytest.raises(MissingPackage, match=rf"{package}.*make install"):
        build_decoder(loader, table, device=CPU, **options)


def test_unknown_loader_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--loader"):
        decoder("tape", make_table("arrays", tmp_path))


FRESH = """
import sys, torch
torch.set_num_threads(2)
from pipelines import build_eval_loader, open_data
from pipelines.public.options import LoaderOptions
options = LoaderOptions(loader="ffcv", workers=1)
loader = build_eval_loader(open_data(sys.argv[1]), 2, size=32, options=options)
print(len(list(loader)), torch.get_num_threads(), "ffcv" in sys.modules)
"""


def test_a_fresh_process_decodes_without_the_package_ffcv(tmp_path: Path) -> None:
    """Importing ffcv takes seconds, and leaves torch one thread."""
    pytest.importorskip("ffcv")
    file = tmp_path / "made.beton"
    convert(make_table("files", tmp_path), file, CACHE_SETTINGS, "stop", "made")
    ended = subprocess.run(
        [sys.executable, "-c", FRESH, str(file)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    batches, threads, imported = ended.stdout.split() or [ended.stderr] * 3
    assert (threads, imported) == ("2", "False") and int(batches) > 0
