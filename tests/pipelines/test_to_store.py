"""A .beton written to a store: the local file's very bytes, or nothing; S3 by moto on loopback."""

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipelines.beton import to_store
from pipelines.datasets import default_val, open_data
from pipelines.remote.errors import RemoteError
from pipelines.remote.file import PIECE
from pipelines.remote.store import expand, open_object, read_small, upload
from pipelines.sources.stored import InFiles
from tools.write_ffcv import main

pytest_plugins = "s3_server"
pytest.importorskip("obstore", reason="stores need the extra remote")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache to make files in."""
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "in").mkdir()
    for row in range(8):
        Image.new("RGB", (200, 190), (20 * row, 9, 9)).save(tmp_path / "in" / f"{row}.png")
    return str(tmp_path / "in")


def test_what_is_written_to_a_store_is_the_local_file(
    bucket: str, folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, local = f"{bucket}/deep/train.beton", tmp_path / "a.beton"
    assert main([folder, str(local), "--shuffle", "1"]) == 0
    place = ["--temporary-folder", str(tmp_path / "aside")]
    assert main([folder, url, "--shuffle", "1", *place]) == 0
    assert f"{url}: 8 rows" in capsys.readouterr().out
    data, text = read_small(url), read_small(f"{url}.json")
    assert data == local.read_bytes() and text is not None
    manifest = json.loads(text)
    crc = manifest.pop("crc")
    assert manifest == json.loads((tmp_path / "a.beton.json").read_text())
    assert crc == [zlib.crc32(data[at : at + PIECE]) for at in range(0, len(data), PIECE)]
    assert len(crc) > 1 and list((tmp_path / "aside").iterdir()) == []


def test_parts_in_a_store_are_read_as_one_file_and_beside_local_data(
    bucket: str, folder: str, tmp_path: Path
) -> None:
    flags = [folder, "--shuffle", "1"]
    urls = [f"{bucket}/train-{part}.beton" for part in range(2)]
    for part, url in enumerate(urls):
        assert main([flags[0], url, *flags[1:], "--shard", f"{part}/2"]) == 0
    local = tmp_path / "a.beton"
    assert main([flags[0], str(local), *flags[1:]]) == 0

    def rows(spec: str) -> list[bytes]:
        table = open_data(spec, Path())
        assert isinstance(table.source, InFiles)
        return [table.source.stored(row).tobytes() for row in range(len(table))]

    want = rows(str(local))
    assert len(want) == 8
    for name in ("train-{0..1}", "train-{1,0}", "train-*", "train-?", "train-[01]"):
        assert rows(f"{bucket}/{name}.beton") == want
    assert rows(f"{local} + {urls[1]}") == [*want, *want[4:]]
    assert rows(f"{bucket}/train-?.beton + {local}") == [*want, *want]
    assert default_val(f"{bucket}/train-?.beton") is None
    upload(local, f"{bucket}/val.beton")
    assert default_val(f"{bucket}/train-?.beton") == f"{bucket}/val.beton"


def test_a_file_of_a_store_is_replaced_only_when_told(
    bucket: str, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{bucket}/train.beton"
    assert main([folder, url]) == 0
    before = open_object(url).version
    assert main([folder, url, "--max-size", "50"]) == 2
    assert f"{url} exists: --overwrite replaces it" in capsys.readouterr().err
    assert open_object(url).version == before
    assert main([folder, url, "--max-size", "50", "--overwrite"]) == 0
    assert open_object(url).version != before


def test_bad_images_leave_no_trace(bucket: str, folder: str, tmp_path: Path) -> None:
    Path(folder, "bad.png").write_bytes(b"no image")
    assert main([folder, f"{bucket}/train.beton"]) == 2
    with pytest.raises(RemoteError, match="matches none of the 0 files"):
        expand(f"{bucket}/*")
    assert [path for path in (tmp_path / "cache").glob("*") if "train" in path.name] == []


def test_a_failed_upload_keeps_the_finished_file(
    bucket: str,
    folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(path: Path, url: str, **how: Any) -> None:
        raise RemoteError(f"{url}: the disk of the store is full")

    monkeypatch.setattr(to_store, "upload", fail)
    assert main([folder, f"{bucket}/train.beton"]) == 2
    (kept,) = (tmp_path / "cache").glob("unsent-train.beton.*/train.beton")
    error = capsys.readouterr().err
    assert "the disk of the store is full" in error and str(kept) in error
    assert main([folder, str(tmp_path / "a.beton")]) == 0
    assert kept.read_bytes() == (tmp_path / "a.beton").read_bytes()
    assert "crc" in json.loads(kept.with_name("train.beton.json").read_text())


def test_a_file_of_a_store_is_verified_against_its_checksums(
    bucket: str, folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{bucket}/train.beton"
    assert main([folder, url]) == 0
    assert main(["--verify", url]) == 0
    assert f"{url}: 8 of 8 rows decode" in capsys.readouterr().out
    data = bytearray(read_small(url) or b"")
    data[-1000] ^= 1  # a pixel of the last raw row, which decodes all the same
    (tmp_path / "changed").write_bytes(data)
    upload(tmp_path / "changed", url, replace=True)
    assert main(["--verify", url]) == 2
    assert "checksum" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "why"),
    [
        ("https://x.org/a.beton", "cannot be written: OUT is a local file, or one of s3://"),
        ("hf://datasets/o/n/a.beton", "cannot be written: OUT is a local file, or one of s3://"),
        ("s3://no-bucket/a.beton", "s3://no-bucket/a.beton: no such bucket (404)"),
    ],
)
def test_places_that_take_no_file_are_refused_before_any_work(
    bucket: str, out: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["missing folder", out]) == 2
    error = capsys.readouterr().err
    assert why in error and "missing folder" not in error


def test_the_temporary_folder_is_for_stores() -> None:
    with pytest.raises(SystemExit):
        main(["photos", "a.beton", "--temporary-folder", "x"])
