"""What tells data sets of the same rows apart: a digest of some rows' bytes."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from http_store import serving, skip_unless_local

from pipelines.beton.format import Sample, open_beton
from pipelines.beton.writer import write_beton
from pipelines.datasets import open_data
from pipelines.remote.file import RemoteOptions
from pipelines.remote.sparse import PIECE
from pipelines.sources import contents
from pipelines.sources.contents import sample_key
from pipelines.sources.fetched import remote_files
from pipelines.sources.files import Files
from pipelines.sources.table import Table

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


def test_a_file_that_cannot_be_read_now_does_not_count_as_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Files(tmp_path, ["a.png"])
    (tmp_path / "a.png").write_bytes(b"x")
    one = np.zeros(1, np.int64), np.ones(1, np.int32), np.ones(1, np.int32)

    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "open", fails)
    with pytest.raises(ValueError, match=r"a\.png: cannot be read \(Input/output error\)"):
        sample_key(Table(*one, source))


def test_of_a_large_row_in_a_store_the_middle_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("obstore", reason="remote files need obstore: pip install 'unmix[remote]'")
    skip_unless_local(tmp_path)
    monkeypatch.setattr(contents, "LIMIT", 1000)
    side = 1000  # a row is eleven pieces and a half
    images = [np.random.default_rng(row).bytes(side * side * 3) for row in range(2)]
    write_beton(tmp_path / "a.beton", (Sample(x, side, side, False, 0) for x in images), 2, 1 << 22)
    with serving({"a.beton": (tmp_path / "a.beton").read_bytes()}) as web:
        remote = RemoteOptions(tmp_path / "cache")
        table = open_data(f"{web.url}/a.beton", tmp_path, remote=remote)
        (file,) = remote_files(table.source)
        before = file.missing()
        assert sample_key(table) == sample_key(open_beton(tmp_path / "a.beton"))
        assert before - file.missing() == 2 * PIECE
        file.close()
