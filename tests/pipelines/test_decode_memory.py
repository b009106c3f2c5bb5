"""pipelines.decoders: the memory that decoded images take at a time is bounded and foretold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.datasets import open_data
from pipelines.decoders import Crops, dali
from pipelines.decoders.build import decode_memory
from pipelines.decoders.dali import DaliDecoder, in_parts
from pipelines.sources.arrays import Arrays
from pipelines.sources.table import Table

CPU = torch.device("cpu")
SIZES = ((40, 60), (30, 30), (50, 20), (20, 20), (64, 64), (10, 10), (33, 47))


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    """Seven JPEGs, and a PNG that PIL decodes."""
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i, (height, width) in enumerate((*SIZES, (25, 25))):
        small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
        ending = "png" if i == len(SIZES) else "jpg"
        small.resize((width, height)).save(tmp_path / "images" / f"{i}.{ending}")
    return open_data(f"folder:{tmp_path / 'images'}", tmp_path)


def calls(table: Table) -> tuple[np.ndarray, list[Crops]]:
    rows = np.array([6, 1, 7, 0, 4, 5, 2, 3, 1])
    rng, views = np.random.default_rng(1), []
    for size, take in ((8, np.arange(9)), (6, np.array([8, 0, 3, 3, 2]))):
        limit = np.stack([table.height, table.width], axis=1)[rows[take]]
        extent = np.maximum(limit // 2, 1)
        begin = rng.integers(0, limit - extent + 1)
        views.append(Crops(size, take, np.concatenate([begin, extent], axis=1).astype(np.int32)))
    return rows, views


class Counting:
    """DALI's decoder, which counts the pixels of each call."""

    def __init__(self, real: Any) -> None:
        self.real, self.pixels = real, list[int]()
        self.decoders = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def image(self, batch: Any, **options: Any) -> Any:
        made = self.real.decoders.image(batch, **options)
        self.pixels.append(sum(int(np.prod(t.shape)) for t in made.evaluate().tensors))
        return made


@pytest.mark.parametrize("cut_on_host", [True, False])
def test_dali_decodes_a_bounded_part_at_a_time_and_the_same_pixels(
    table: Table, cut_on_host: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nvidia.dali")
    rows, views = calls(table)
    whole = DaliDecoder(table, device=CPU, workers=2, cut_on_host=cut_on_host)
    wanted = whole(rows, views)
    whole.close()
    monkeypatch.setattr(dali, "PART_BYTES", 3 * 3500)
    parts = DaliDecoder(table, device=CPU, workers=2, cut_on_host=cut_on_host)
    parts.dali = Counting(parts.dali)
    found = parts(rows, views)
    counted, decodes = parts.dali.pixels, parts.decodes
    parts.close()
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert decodes == 8, "each image once"
    assert sum(counted) == 3 * sum(h * w for h, w in SIZES)
    assert len(counted) > 2
    assert all(n <= 3 * 3500 or n == 3 * 64 * 64 for n in counted), counted


def test_no_rows_are_one_empty_part(table: Table) -> None:
    assert list(in_parts(table, np.zeros(0, np.int64))) == [(0, 0)]


def of_sizes(height: int, width: int, count: int, channels: int = 3) -> Table:
    blank = np.zeros((count, 1, 1, channels), np.uint8)
    tall, wide = np.full(count, height, np.int32), np.full(count, width, np.int32)
    return Table(np.full(count, -1), tall, wide, Arrays("camera", blank))


def test_the_memory_of_camera_photographs_is_foretold() -> None:
    """24 megapixels take 72 MB: a step of 80 took 5.4 GiB."""
    found = decode_memory(of_sizes(4000, 6000, 1000), rows=80, workers=8)
    image = 3 * 4000 * 6000
    assert found["memory"].bytes == 1000 * image
    assert found["ffcv"].bytes == 8 * image
    assert found["dali"].bytes == dali.PART_BYTES < 80 * image
    assert decode_memory(of_sizes(30_000, 20_000, 3), 2, 1)["dali"].bytes == 3 * 600_000_000
    small = decode_memory(of_sizes(32, 32, 10, channels=5), rows=4, workers=2)
    assert small["dali"].bytes == 4 * 5 * 32 * 32


def test_images_of_several_sizes_do_not_fit_the_memory_loader(table: Table) -> None:
    assert list(decode_memory(table, 8, 1)) == ["ffcv", "dali"]
