"""What tells data sets of the same rows apart: a digest of some rows' bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.beton.format import Sample, open_beton
from pipelines.beton.writer import write_beton
from pipelines.datasets import open_data
from pipelines.sources import contents
from pipelines.sources.contents import sample_key

SIDE = 16


def rows(seed: int, count: int = 40) -> list[bytes]:
    rng = np.random.default_rng(seed)
    return [rng.bytes(SIDE * SIDE * 3) for _ in range(count)]


def beton(place: Path, images: list[bytes]) -> Path:
    write_beton(place, (Sample(x, SIDE, SIDE, False, 0) for x in images), len(images), 1 << 21)
    return place


def test_files_of_one_layout_differ_by_their_images_and_not_by_their_place(tmp_path: Path) -> None:
    one = sample_key(open_beton(beton(tmp_path / "a.beton", rows(0))))
    assert one == sample_key(open_beton(beton(tmp_path / "elsewhere.beton", rows(0))))
    assert one != sample_key(open_beton(beton(tmp_path / "a.beton", rows(1))))
    last = [*rows(0)[:-1], rows(1)[-1]]
    assert one != sample_key(open_beton(beton(tmp_path / "a.beton", last)))
    unseen = rows(0)
    unseen[1] = rows(1)[1]  # rows 0, 2, 5, ... are looked at
    assert one == sample_key(open_beton(beton(tmp_path / "a.beton", unseen)))


def test_image_files_are_known_by_their_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    folder = tmp_path / "cat"
    folder.mkdir()
    for number, data in enumerate(rows(0, 3)):
        Image.frombytes("RGB", (SIDE, SIDE), data).save(folder / f"{number}.png")
    table = open_data(f"folder:{tmp_path}", tmp_path)
    monkeypatch.setattr(contents, "LIMIT", 100)
    other = beton(tmp_path / "b.beton", rows(1))
    joined = open_data(f"folder:{tmp_path} + {other}", tmp_path)
    key, of_both = sample_key(table), sample_key(joined)
    place = folder / "0.png"
    data = bytearray(place.read_bytes())
    data[len(data) // 2] ^= 1
    place.write_bytes(data)
    assert sample_key(table) != key and sample_key(joined) != of_both
    data[len(data) // 2] ^= 1
    data[-1] ^= 1  # beyond the limit
    place.write_bytes(data)
    assert (sample_key(table), sample_key(joined)) == (key, of_both)
    place.unlink()
    assert sample_key(table) != key  # one that is missing is the decoder's to report
