"""The writer: every good image is written, every bad one named; no hang and no partial file."""

import io
import json
import os
import tarfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pipelines.beton.convert
from pipelines.beton.convert import Settings, WorkerDied, bad_rows, cached_beton, convert, in_order
from pipelines.beton.encode import Task, encode_rows, fitted, jpeg_frame
from pipelines.beton.format import manifest_path, open_beton
from pipelines.sources.arrays import Arrays
from pipelines.sources.beton import Beton
from pipelines.sources.folder import scan
from pipelines.sources.image_file import decode_with_pil
from pipelines.sources.shards import open_shards
from pipelines.sources.table import Table
from tools.write_ffcv import main

KEEP = Settings(max_size=0, keep_jpeg=True, workers=1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def smooth(height: int, width: int) -> Image.Image:
    """A picture that survives JPEG well."""
    y, x = np.mgrid[:height, :width]
    wave = np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 11)], 2)
    return Image.fromarray((127 + 100 * wave).astype(np.uint8))


def save(path: Path, height: int = 40, width: int = 60, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    smooth(height, width).save(path, **options)
    return path


def gap(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


@pytest.mark.parametrize("keep", [False, True])
def test_every_good_nasty_image_arrives(nasty: Path, tmp_path: Path, keep: bool) -> None:
    table = scan(nasty / "ok", tmp_path, "keep")
    out = tmp_path / "ok.beton"
    manifest = convert(table, out, Settings(max_size=0, quality=95, keep_jpeg=keep, workers=1))
    written = open_beton(out)
    assert manifest["rows"] == len(written) == len(table)
    assert (manifest["kept"] > 10) == keep
    assert bad_rows(written, workers=1) == []
    assert isinstance(written.source, Beton)
    for row in range(len(table)):
        if table.height[row] * table.width[row] > 10**7:
            continue  # 24 megapixels of one colour cost seconds
        name = table.source.name(row)
        want, got = table.source.pixels(row), written.source.pixels(row)
        lossless = name.endswith((".png", "png_named.JPEG", "bmp_named.jpg", "gif_named.JPEG"))
        assert gap(want, got) <= (0 if lossless else 3), name
        assert written.source.jpg[row] != lossless, name


def test_kept_jpegs_are_the_very_bytes(nasty: Path, tmp_path: Path) -> None:
    table = scan(nasty / "ok", tmp_path, "keep")
    convert(table, tmp_path / "ok.beton", KEEP)
    written = open_beton(tmp_path / "ok.beton")
    names = [Path(table.source.name(row)).name for row in range(len(table))]
    same = {
        name
        for row, name in enumerate(names)
        if (data := written.source.encoded(row)) is not None
        and data.tobytes() == (nasty / "ok" / name).read_bytes()
    }
    assert {"plain.jpg", "progressive.jpg", "gray.jpg", "exif_1.jpg", "icc.jpg"} <= same
    assert not same & {"cmyk.jpg", *(f"exif_{i}.jpg" for i in range(2, 9))}


@pytest.mark.parametrize("keep", [[], ["--keep-jpeg"]])
def test_bad_images_stop_the_writer_and_are_all_named(
    nasty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], keep: list[str]
) -> None:
    out = tmp_path / "out" / "n.beton"
    assert main([str(nasty), str(out), *keep]) == 2
    message = capsys.readouterr().err
    for path in (nasty / "bad").iterdir():
        assert str(path) in message
    assert str(nasty / "ok") not in message
    assert not out.parent.exists() or os.listdir(out.parent) == []


def test_bad_images_are_skipped_and_listed(
    nasty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "n.beton"
    assert main([str(nasty), str(out), "--on-error", "skip", "--max-size", "100"]) == 0
    manifest = json.loads(manifest_path(out).read_text())
    bad = {str(path) for path in (nasty / "bad").iterdir()}
    assert {skipped["name"] for skipped in manifest["skipped"]} == bad
    assert all(skipped["reason"] for skipped in manifest["skipped"])
    table = open_beton(out)
    assert len(table) == manifest["rows"] == manifest["jpg"] + manifest["raw"]
    assert table.classes == ("bad", "odd", "ok")
    assert max(table.height.max(), table.width.max()) == 100
    assert main(["--verify", str(out)]) == 0
    assert f"{len(table)} of {len(table)} rows decode" in capsys.readouterr().out


def test_nothing_but_bad_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"")
    out = tmp_path / "a.beton"
    assert main([str(tmp_path / "in"), str(out), "--on-error", "skip"]) == 2
    assert not out.exists()


def test_verify_finds_damaged_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for row in range(3):
        save(tmp_path / "in" / f"{row}.jpg")
    out = tmp_path / "a.beton"
    assert main([f"folder:{tmp_path}/in", str(out)]) == 0
    source = open_beton(out).source
    assert isinstance(source, Beton)
    with out.open("r+b") as file:
        file.seek(int(source.offset[1]))
        file.write(b"\0" * 30)
    assert main(["--verify", str(out)]) == 1
    assert "row 1: " in capsys.readouterr().out
    out.write_bytes(out.read_bytes()[:-7])
    assert main(["--verify", str(out)]) == 2
    assert str(out) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["cifr10", "a.beton"], "did you mean 'cifar10'"),
        (["missing/folder", "a.beton"], "no data set"),
        (["photos", "a.beton", "--quality", "0"], "--quality"),
        (["photos", "a.beton", "--max-size", "70000"], "--max-size"),
        (["wds:no-{0..3}.tar", "a.beton"], "no-0.tar does not exist"),
        (["wds:no-{3..0}.tar", "a.beton"], "{3..0} counts upwards"),
        (["parquet://no.parquet", "a.beton"], "did you mean 'parquet:no.parquet'?"),
        (["parquet:s3://b/x.parquet", "a.beton"], "parquet: reads no store"),
        (["photos", "s3:/b/a.beton"], "OUT s3:/b/a.beton: did you mean s3://b/a.beton?"),
        (["parquet:no-{3.parquet", "a.beton"], "a brace without its other half"),
        (["--verify", "missing.beton"], "missing.beton"),
        (["--verify", "s3:/b/x.beton"], "did you mean 's3://b/x.beton'?"),
    ],
)
def test_wrong_arguments_are_explained(
    arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["photos"],
        ["a", "b.beton", "--verify", "c"],
        ["a", "b.bin"],
        ["a", "b.beton", "--shuffle=-1"],
    ],
)
def test_missing_arguments_are_usage_errors(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)


def array_table(count: int, side: int = 8) -> Table:
    images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    sides = np.full(count, side, np.int32)
    label = np.arange(count, dtype=np.int64) % 2
    return Table(label, sides, sides, Arrays("noise", images), ("even", "odd"))


def test_arrays_are_stored_raw(tmp_path: Path) -> None:
    table = array_table(5)
    manifest = convert(table, tmp_path / "a.beton", Settings(workers=1), source="noise")
    written = open_beton(tmp_path / "a.beton")
    assert (manifest["raw"], manifest["jpg"], manifest["source"]) == (5, 0, "noise")
    assert written.label.tolist() == table.label.tolist()
    assert written.classes == table.classes
    for row in range(5):
        assert (written.source.pixels(row) == table.source.pixels(row)).all()


def test_shuffled_rows_keep_their_labels_and_names(tmp_path: Path) -> None:
    """Class folders hold a class together; shuffled, no half of the file is of one class."""
    for row in range(40):
        save(tmp_path / "in" / "ab"[row // 20] / f"{row:02}.jpg", 20 + row, 60)
    (tmp_path / "in/a/broken.jpg").write_bytes(b"\xff\xd8 no image")
    where, skip = [f"{tmp_path}/in"], ["--keep-jpeg", "--on-error", "skip", "--shuffle"]
    files = {}
    for name, seed in (("first", "3"), ("again", "3"), ("other", "4")):
        out = tmp_path / f"{name}.beton"
        assert main([*where, str(out), *skip, seed]) == 0
        files[name] = out.read_bytes()
        (skipped,) = json.loads(manifest_path(out).read_text())["skipped"]
        assert skipped["name"] == str(tmp_path / "in/a/broken.jpg")
    assert files["first"] == files["again"] != files["other"]
    table = open_beton(tmp_path / "first.beton")
    height = table.height.tolist()
    assert sorted(height) == list(range(20, 60)) != height
    assert table.classes == ("a", "b") and table.label.tolist() == [int(h >= 40) for h in height]
    assert 5 < table.label[:20].sum() < 15
    for row, tall in enumerate(height):
        (path,) = (tmp_path / "in").glob(f"?/{tall - 20:02}.jpg")
        data = table.source.encoded(row)
        assert data is not None and data.tobytes() == path.read_bytes()


def test_processes_write_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = array_table(100)
    convert(table, tmp_path / "one.beton", Settings(workers=1))
    monkeypatch.setattr(pipelines.beton.convert, "FEW", 0)
    convert(table, tmp_path / "two.beton", Settings(workers=2))
    assert (tmp_path / "one.beton").read_bytes() == (tmp_path / "two.beton").read_bytes()


def die(task: Task) -> list[str]:
    """What the kernel does to a worker that takes too much memory."""
    os._exit(9)


def test_a_dying_worker_is_an_error_and_no_hang() -> None:
    tasks = [Task(array_table(1), Settings(), 1 << 21)] * 40
    with pytest.raises(WorkerDied, match="worker process died"):
        list(in_order(die, tasks, 2))


def test_shrinking_keeps_the_aspect_and_is_antialiased(tmp_path: Path) -> None:
    assert fitted(1000, 10, 500) == (500, 5)
    assert fitted(1, 3000, 500) == (1, 500)
    assert fitted(500, 499, 500) == (500, 499)
    assert fitted(9000, 9000, 0) == (9000, 9000)
    y, x = np.mgrid[:600, :800]
    board = np.repeat((((x + y) % 2) * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    (tmp_path / "in").mkdir()
    Image.fromarray(board).save(tmp_path / "in" / "board.png")
    convert(scan(tmp_path / "in", tmp_path, "stop"), tmp_path / "a.beton", Settings(max_size=200))
    pixels = open_beton(tmp_path / "a.beton").source.pixels(0)
    assert pixels.shape == (150, 200, 3)
    assert abs(int(pixels.min()) - 127) < 20  # a fine checkerboard is gray from afar
    assert abs(int(pixels.max()) - 127) < 20


def test_what_cannot_be_kept_is_encoded_again(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "in" / "turned.jpg", exif=exif)
    smooth(40, 60).convert("CMYK").save(tmp_path / "in" / "cmyk.jpg")
    save(tmp_path / "in" / "large.jpg", 300, 400)
    save(tmp_path / "in" / "plain.jpg", progressive=True)
    table = scan(tmp_path / "in", tmp_path, "stop")
    manifest = convert(table, tmp_path / "a.beton", Settings(max_size=100, keep_jpeg=True))
    assert manifest["kept"] == 1
    written = open_beton(tmp_path / "a.beton")
    assert written.height.tolist() == [40, 75, 40, 60]
    assert written.width.tolist() == [60, 100, 60, 40]


def test_arithmetic_coding_is_noticed() -> None:
    out = io.BytesIO()
    smooth(20, 20).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    assert jpeg_frame(data) == 0xC2
    assert jpeg_frame(data.replace(b"\xff\xc2", b"\xff\xca")) == 0xCA
    assert jpeg_frame(data[:10]) == jpeg_frame(b"") == 0


def test_too_little_room_is_said_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(
        pipelines.beton.convert.shutil, "disk_usage", lambda path: usage(9, 9, 1000)
    )
    with pytest.raises(ValueError, match="--max-size"):
        convert(array_table(50), tmp_path / "a.beton", Settings())
    assert os.listdir(tmp_path) == []


def test_the_cached_conversion_is_made_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = array_table(6)
    first = cached_beton(table, "noise")
    with monkeypatch.context() as patch:
        patch.setattr(pipelines.beton.convert, "convert", None)
        again = cached_beton(table, "noise")
    assert isinstance(first.source, Beton)
    assert isinstance(again.source, Beton)
    assert first.source.path == again.source.path
    assert cache in first.source.path.parents
    assert cached_beton(first, "any") is first
    first.source.path.write_bytes(b"damaged")
    assert len(cached_beton(table, "noise")) == 6
    monkeypatch.setattr(pipelines.beton.convert, "CACHE_LIMIT", 10)
    with pytest.raises(ValueError, match=r"tools/write_ffcv\.py 'folder:x y'"):
        cached_beton(array_table(7), "folder:x y")


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def write_shards(folder: Path) -> None:
    for shard in range(2):
        with tarfile.open(folder / f"s-{shard:03}.tar", "w") as tar:
            for row in range(3):
                image = io.BytesIO()
                smooth(20 + row, 30).save(image, "PNG" if row == 1 else "JPEG")
                key = f"deep/{shard}{row}"
                add(tar, f"{key}.png" if row == 1 else f"{key}.jpg", image.getvalue())
                add(tar, f"{key}.cls", str(3 * shard + row).encode())
                add(tar, f"{key}.json", b"{}")


def test_shards_are_read_in_place(tmp_path: Path) -> None:
    write_shards(tmp_path)
    for pattern in ["s-{000..001}.tar", "s-*.tar", "s-00{0,1}.tar"]:
        table = open_shards(str(tmp_path / pattern), "stop")
        assert table.label.tolist() == [0, 1, 2, 3, 4, 5]
        assert table.height.tolist() == [20, 21, 22] * 2
    out = tmp_path / "a.beton"
    assert main([f"wds:{tmp_path}/s-{{000..001}}.tar", str(out), "--keep-jpeg"]) == 0
    written = open_beton(out)
    for row in range(6):
        want = decode_with_pil(table.source.encoded(row).tobytes(), "")
        assert (written.source.pixels(row) == want).all()
    assert written.label.tolist() == table.label.tolist()


def test_bad_shards_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards(tmp_path)
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        add(tar, "x.jpg", b"no image")
    assert main([f"wds:{tmp_path}/*.tar", str(tmp_path / "a.beton")]) == 2
    assert "t.tar:x.jpg: not an image" in capsys.readouterr().err
    (tmp_path / "t.tar").write_bytes((tmp_path / "s-000.tar").read_bytes()[:2000])
    assert main([f"wds:{tmp_path}/t.tar", str(tmp_path / "a.beton")]) == 2
    assert "t.tar" in capsys.readouterr().err
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        add(tar, "x.cls", b"dog")
    with pytest.raises(
        ValueError, match=r"x\.cls is no class number: .*--label-key cls takes names"
    ):
        open_shards(str(tmp_path / "t.tar"), "stop")


def test_a_row_that_no_page_holds_is_a_reason() -> None:
    (row,) = encode_rows(Task(array_table(1), Settings(), 10))
    assert isinstance(row, str)
    assert "do not fit" in row
