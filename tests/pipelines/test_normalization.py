"""pipelines.normalization: mean and deviation of the pixels, measured once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import normalization
from pipelines.data_facts import DATASETS, channel_facts
from pipelines.datasets import open_data
from pipelines.normalization import PixelStatistics, pixel_statistics
from pipelines.sources.arrays import Arrays
from pipelines.sources.table import Table


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def table_of(images: np.ndarray) -> Table:
    side = np.full(len(images), images.shape[1], np.int32)
    return Table(np.full(len(images), -1), side, side, Arrays("made", images))


def test_each_image_counts_alike_whatever_its_size(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (51, 0, 255)).save(tmp_path / "a.png")
    Image.new("RGB", (40, 20), (153, 0, 255)).save(tmp_path / "b.png")
    found = pixel_statistics(open_data(f"folder:{tmp_path}", tmp_path), workers=2)
    assert found.mean == (0.4, 0.0, 1.0)
    assert found.std == (0.2, 1.0, 1.0), "a channel without variation is not divided by 0"


def test_what_was_measured_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="pipelines"):
        pixel_statistics(table_of(np.full((3, 2, 2, 1), 51, np.uint8)))
    assert "channel 0 has the value 0.2000 everywhere" in caplog.text
    assert "measured in 3 images: mean 0.2, std 1" in caplog.text


def test_the_deviation_is_that_of_all_pixels() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, 8, 8, 5), np.uint8)
    images[..., 3] //= 4
    found = pixel_statistics(table_of(images))
    pixels = images.reshape(-1, 5) / 255
    assert found.mean == pytest.approx(pixels.mean(0), abs=5e-5)
    assert found.std == pytest.approx(pixels.std(0), abs=5e-5)


def test_it_is_measured_once_for_the_same_rows_and_anew_for_others(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)
    first = pixel_statistics(table_of(images))

    def refuse(*_: object) -> PixelStatistics:
        raise AssertionError("measured again")

    with monkeypatch.context() as patched:
        patched.setattr(normalization, "_measure", refuse)
        assert pixel_statistics(table_of(images)) == first
    assert pixel_statistics(table_of(images // 2)).mean != first.mean
    for file in (cache / "statistics").iterdir():
        file.write_text("{")  # damaged
    assert pixel_statistics(table_of(images)) == first


def test_gray_images_have_the_average_of_the_published_numbers() -> None:
    gray = channel_facts(DATASETS["cifar10"], 1)
    assert (gray.mean, gray.std) == ((0.4734,), (0.2009,))
    assert channel_facts(DATASETS["cifar10"], 3) is DATASETS["cifar10"]
    with pytest.raises(ValueError, match="images of 5 channels"):
        channel_facts(DATASETS["cifar10"], 5)
