"""Images of 1, 2, 5 and other numbers of channels through every loader to the batch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image

from pipelines.augment.build import build_augmenter
from pipelines.augment.channels import ChannelAugmenter
from pipelines.augment.params import ViewParams, draw_params
from pipelines.beton.convert import convert
from pipelines.beton.encode import Settings
from pipelines.beton.format import Sample, manifest_path, open_beton
from pipelines.beton.writer import write_beton
from pipelines.datasets import open_data
from pipelines.decoders import Crops
from pipelines.decoders.build import build_decoder
from pipelines.decoders.dali import DaliDecoder
from pipelines.decoders.memory import MemoryDecoder
from pipelines.public import LoaderOptions, build_eval_loader, build_loader
from pipelines.public import open_data as open_public
from pipelines.rng import RowRng
from pipelines.sources.image_file import ImageRules
from pipelines.sources.table import Table
from pipelines.views import View

CPU = torch.device("cpu")
SIDE = 24


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))


def bands(channels: int, seed: int = 0, side: int = SIDE) -> NDArray[np.uint8]:
    """An image whose band ``c`` is ``20 c + 5`` with a white square at a place of its own."""
    image = np.empty((side, side, channels), np.uint8)
    for c in range(channels):
        image[..., c] = 20 * c + 5 + seed
        image[2 * c : 2 * c + 4, 3 * c : 3 * c + 4, c] = 255
    return image


def folder(path: Path, channels: int, count: int = 4) -> Path:
    path.mkdir(exist_ok=True)
    for i in range(count):
        image = bands(channels, i)
        if channels == 1:
            Image.fromarray(image[..., 0]).save(path / f"{i}.png")
        else:
            kind: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "contig"}
            tifffile.imwrite(path / f"{i}.tif", image, **kind)
    return path


def open_bands(path: Path, channels: int) -> Table:
    return open_data(f"folder:{path}", path, rules=ImageRules(channels=channels))


def table_for(loader: str, tmp_path: Path, channels: int) -> Table:
    table = open_bands(folder(tmp_path / "images", channels), channels)
    if loader != "ffcv":
        return table
    convert(table, tmp_path / "a.beton", Settings(max_size=0))
    return open_beton(tmp_path / "a.beton")


def decoder_of(loader: str, table: Table) -> Any:
    if loader == "ffcv":
        pytest.importorskip("ffcv")
    if loader.startswith("dali"):
        pytest.importorskip("nvidia.dali")
    if loader == "memory-products":
        return MemoryDecoder(table, device=CPU, cut_on_host=False)
    if loader == "dali-windows":
        return DaliDecoder(table, device=CPU, cut_on_host=False)
    options: Any = {"interpolation": "antialias", "workers": 2, "on_bad": "stop"}
    return build_decoder(loader, table, device=CPU, **options)


@pytest.mark.parametrize("channels", [1, 2, 5, 7])
@pytest.mark.parametrize("loader", ["memory", "memory-products", "ffcv", "dali", "dali-windows"])
def test_each_band_arrives_in_its_channel_at_its_place(
    loader: str, channels: int, tmp_path: Path
) -> None:
    table = table_for(loader, tmp_path, channels)
    assert table.channels == channels
    rows, whole = np.array([2, 0]), [0, 0, SIDE, SIDE]
    corner = [2, 3, SIDE // 2, SIDE // 2]
    take = np.array([0, 1])
    views = [
        Crops(SIDE, take, np.array([whole, whole], np.int32)),
        Crops(SIDE // 2, take, np.array([corner, whole], np.int32)),
    ]
    decoder = decoder_of(loader, table)
    same, small = decoder(rows, views)
    decoder.close()
    assert same.shape == (2, SIDE, SIDE, channels) and same.is_contiguous()
    for crop, row in zip(same, rows, strict=True):
        np.testing.assert_array_equal(crop.numpy(), bands(channels, int(row)))
    np.testing.assert_array_equal(small[0].numpy(), bands(channels, 2)[2:14, 3:15])
    mean = bands(channels, 0).astype(float).mean((0, 1))
    assert np.abs(small[1].numpy().mean((0, 1)) - mean).max() < 1, "each band by its own filter"


@pytest.mark.parametrize("loader", ["memory", "ffcv", "dali", "dali-windows"])
def test_colour_jpegs_become_their_luma(loader: str, tmp_path: Path) -> None:
    path = tmp_path / "images"
    path.mkdir()
    y, x = np.mgrid[:SIDE, :SIDE]
    image = np.stack((8 * x, 8 * y, 255 - 8 * x), axis=2).clip(0, 255).astype(np.uint8)
    for i in range(2):
        Image.fromarray(image).save(path / f"{i}.jpg", quality=95)
    table = open_bands(path, 1)
    if loader == "ffcv":
        convert(table, tmp_path / "a.beton", Settings(max_size=0, keep_jpeg=True))
        table = open_beton(tmp_path / "a.beton")
        assert (table.channels, table.source.jpg.all()) == (1, True)  # type: ignore[attr-defined]
    decoder = decoder_of(loader, table)
    box = np.array([[0, 0, SIDE, SIDE]], np.int32)
    (crops,) = decoder(np.array([1]), [Crops(SIDE, np.array([0]), box)])
    decoder.close()
    wanted = np.asarray(Image.open(path / "1.jpg").convert("L")).astype(int)
    assert np.abs(crops[0, ..., 0].numpy() - wanted).mean() < 2


# --- augmentation ------------------------------------------------------------------------------

STRONG = View(
    *(16, (0.3, 1.0)),
    **{"jitter_prob": 1.0, "gray": 0.5, "blur": 0.5, "solarize": 0.5},
    **{"vertical_flip": 0.5, "rotate90": 0.5},
)


def crops_and_params(channels: int, rows: int = 12) -> tuple[torch.Tensor, ViewParams]:
    rng = np.random.default_rng(channels)
    crops = torch.from_numpy(rng.integers(0, 256, (rows, 16, 16, channels), np.uint8))
    side = np.full(rows, 16, np.int32)
    return crops, draw_params(STRONG, 0, RowRng(0, 0), np.arange(rows), side, side)


def augmented(crops: torch.Tensor, params: ViewParams, view: View = STRONG) -> torch.Tensor:
    channels = crops.shape[3]
    augmenter = build_augmenter(CPU, 2, channels)
    numbers = [0.1 * c for c in range(channels)], [1.0 + c for c in range(channels)]
    return augmenter.augment(crops, augmenter.plan(view, params), *numbers)


def test_three_channels_take_no_detour() -> None:
    assert not isinstance(build_augmenter(CPU, 1, 3), ChannelAugmenter)


def test_the_first_three_of_many_bands_are_augmented_as_rgb() -> None:
    crops, params = crops_and_params(7)
    made = augmented(crops, params)
    assert made.shape == (12, 7, 16, 16)
    assert made.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        made[:, :3], augmented(crops[..., :3].contiguous(), params), rtol=0, atol=0
    )


@pytest.mark.parametrize("channels", [2, 5])
def test_other_bands_are_flipped_and_blurred_but_keep_their_brightness(channels: int) -> None:
    crops, params = crops_and_params(channels)
    off = np.zeros_like(params.gray)
    plain = dataclasses.replace(params, jitter=off, gray=off, solarize=off)
    others = [0, 1] if channels == 2 else [3, 4]
    made = augmented(crops, params)[:, others]
    for place, c in enumerate(others):
        triple = crops[..., [c, c, c]].contiguous()
        augmenter = build_augmenter(CPU, 1)
        numbers = [0.1 * c] * 3, [1.0 + c] * 3
        alone = augmenter.augment(triple, augmenter.plan(STRONG, plain), *numbers)
        torch.testing.assert_close(made[:, place], alone[:, 0], rtol=0, atol=0)
    assert params.flip.any() and params.sigma.any() and params.quarter_turns.any()


def test_gray_images_keep_brightness_and_contrast_and_nothing_of_hue() -> None:
    crops, params = crops_and_params(1)
    bright = dataclasses.replace(STRONG, jitter=(0.4, 0.4, 0.0, 0.0), gray=0.0)
    off = dataclasses.replace(params, gray=np.zeros_like(params.gray))
    torch.testing.assert_close(
        augmented(crops, params), augmented(crops, off, bright), rtol=0, atol=0
    )
    triple = augmented(crops.expand(-1, -1, -1, 3).contiguous(), off, bright)
    torch.testing.assert_close(augmented(crops, params)[:, 0], triple[:, 0], rtol=0, atol=0)
    assert params.gray.any() and params.solarize.any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_a_gpu_makes_the_host_s_views(channels: int) -> None:
    crops, params = crops_and_params(channels)
    device = torch.device("cuda")
    augmenter = build_augmenter(device, 1, channels)
    numbers = [0.1 * c for c in range(channels)], [1.0 + c for c in range(channels)]
    plan = augmenter.plan(STRONG, params).to(device)
    made = augmenter.augment(crops.to(device), plan, *numbers)
    torch.testing.assert_close(made.cpu(), augmented(crops, params), rtol=0, atol=2e-5)


# --- .beton ------------------------------------------------------------------------------------


def test_a_beton_without_its_manifest_shows_its_channels_by_its_size(tmp_path: Path) -> None:
    table = open_bands(folder(tmp_path / "images", 5), 5)
    manifest = convert(table, tmp_path / "a.beton", Settings(max_size=0))
    assert manifest["channels"] == 5
    manifest_path(tmp_path / "a.beton").unlink()
    again = open_beton(tmp_path / "a.beton")
    np.testing.assert_array_equal(again.source.pixels(3), bands(5, 3))


def test_a_shrunk_row_keeps_all_bands(tmp_path: Path) -> None:
    convert(open_bands(folder(tmp_path / "i", 5), 5), tmp_path / "a.beton", Settings(max_size=12))
    small = open_beton(tmp_path / "a.beton").source.pixels(0)
    assert small.shape == (12, 12, 5)
    assert np.abs(small.mean((0, 1)) - bands(5).mean((0, 1))).max() < 3


@pytest.mark.parametrize(("stored", "asked"), [(5, 3), (3, 1), (1, 3), (5, 4)])
def test_another_number_of_channels_than_the_file_s_is_refused(
    stored: int, asked: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.beton"
    pixels = bands(stored)
    write_beton(path, [Sample(pixels.tobytes(), SIDE, SIDE, False, 0, stored)], 1, 1 << 21)
    with pytest.raises(ValueError, match=f"{stored} channels.*--in-chans {stored}"):
        open_data(str(path), tmp_path, rules=ImageRules(channels=asked))


def test_rows_of_several_numbers_of_channels_are_damage(tmp_path: Path) -> None:
    rows = [Sample(bands(c).tobytes(), SIDE, SIDE, False, 0, c) for c in (5, 4)]
    write_beton(tmp_path / "a.beton", rows, 2, 1 << 21)
    with pytest.raises(ValueError, match="raw data of another size than h x w x 5"):
        open_beton(tmp_path / "a.beton")


# --- the public loader -------------------------------------------------------------------------


def test_public_loaders_follow_the_data_s_channels(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", 5)
    data = open_public(f"folder:{images}", channels=5)
    with pytest.raises(ValueError, match=r"mean has 0 values .* 5 channels"):
        build_loader(data, [View(16)], 2)
    numbers: dict[str, Any] = {"mean": [0.1] * 5, "std": [0.5] * 5, "device": "cpu"}
    options = LoaderOptions(workers=1)
    with build_loader(data, [View(16)], 2, **numbers, mixture="unmix", options=options) as loader:
        batch = next(iter(loader))
    assert batch.views[0].shape == batch.mixed[0].image.shape == (2, 5, 16, 16)
    with build_eval_loader(data, 4, size=SIDE, resize=SIDE, **numbers, options=options) as loader:
        (view,) = next(iter(loader)).views
    wanted = (torch.from_numpy(bands(5, 1)) / 255 - 0.1) / 0.5
    torch.testing.assert_close(view[1].permute(1, 2, 0), wanted)
