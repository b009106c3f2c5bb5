"""A folder as a table: the files that count, their sizes, and the cache."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import pipelines.sources.headers
from pipelines.sources.files import Files
from pipelines.sources.folder import scan
from pipelines.sources.table import Table

ORIENTATION = 0x0112


def save(path: Path, width: int = 12, height: int = 8, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (90, 20, 200)).save(path, **options)
    return path


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def names(table: Table) -> list[str]:
    assert isinstance(table.source, Files)
    return list(table.source.names)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "images"


def test_first_folder_is_the_class_at_any_depth(root: Path, cache: Path) -> None:
    for name in ["dog/b.jpg", "cat/deep/er/a.png", "cat/z.bmp"]:
        save(root / name)
    (root / "empty").mkdir()
    table = scan(root, cache, "stop", None)
    assert names(table) == ["cat/deep/er/a.png", "cat/z.bmp", "dog/b.jpg"]
    assert table.label.tolist() == [0, 0, 1]
    assert table.classes == ("cat", "dog")


def test_a_flat_folder_has_no_labels(root: Path, cache: Path) -> None:
    for name in ["a.jpg", "b.jpg", "more/c.jpg"]:
        save(root / name)
    table = scan(root, cache, "stop", None)
    assert table.label.tolist() == [-1, -1, -1]
    assert table.classes == ()


def test_extensions_and_dot_files(root: Path, cache: Path) -> None:
    for name in ["A.JPG", "b.JpEg", ".hidden.jpg", "c.WEBP", "d.ppm", "é ü.gif", "e.tiff"]:
        save(root / "x" / name)
    for name in ["._A.JPG", "Thumbs.db", "notes.txt", ".jpg", "jpg"]:
        (root / "x" / name).write_bytes(b"no image")
    table = scan(root, cache, "stop", None)
    assert len(table) == 7
    assert "x/.hidden.jpg" in names(table)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
def test_sizes_are_upright(root: Path, cache: Path, orientation: int, kind: str) -> None:
    save(root / f"a.{kind}", exif=turned(orientation))
    table = scan(root, cache, "stop", None)
    assert table.source.pixels(0).shape == (table.height[0], table.width[0], 3)
    assert (table.height[0] > table.width[0]) == (orientation >= 5)


def test_a_png_oriented_behind_its_pixels(root: Path, cache: Path) -> None:
    path = save(root / "a.png")
    exif = turned(6).tobytes().removeprefix(b"Exif\0\0")
    data = path.read_bytes()
    end = data.rindex(b"IEND") - 4
    with (root / "b.png").open("wb") as file:
        file.write(data[:end])
        PngImagePlugin.putchunk(file, b"eXIf", exif)
        file.write(data[end:])
    table = scan(root, cache, "stop", None)
    for row in range(2):
        assert table.source.pixels(row).shape == (table.height[row], table.width[row], 3)
    assert table.height.tolist() == [8, 12]


def test_the_cache_follows_the_files(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(root / "a.png")
    first = scan(root, cache, "stop", None)
    with monkeypatch.context() as patch:
        patch.setattr(pipelines.sources.headers, "measure", None)  # a second reading would fail
        again = scan(root, cache, "stop", None)
    assert again.width.tolist() == first.width.tolist() == [12]
    save(root / "a.png", 33, 44)
    os.utime(root / "a.png", ns=(1, 1))
    assert scan(root, cache, "stop", None).width.tolist() == [33]
    save(root / "b.png", 5, 6)
    assert scan(root, cache, "stop", None).width.tolist() == [33, 5]
    next((cache / "tables").iterdir()).write_bytes(b"PK damaged")
    assert scan(root, cache, "stop", None).width.tolist() == [33, 5]
    assert all(file.suffix == ".npz" for file in (cache / "tables").iterdir())


def test_many_processes_agree(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for row in range(9):
        save(root / f"{row}.png", 5 + row, 7)
    (root / "bad.jpg").write_bytes(b"")
    alone = scan(root, cache, "replace", None)
    monkeypatch.setattr(pipelines.sources.headers, "MANY_CHUNKS", 0)
    monkeypatch.setattr(pipelines.sources.headers, "CHUNK", 2)
    many = scan(root, cache / "other", "replace", None)
    assert names(many) == names(alone)
    assert (many.width == alone.width).all()
    assert (many.height == alone.height).all()


def test_bad_files_are_named(root: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(root / "a" / "good.jpg")
    (root / "b").mkdir()
    (root / "b" / "empty.jpg").write_bytes(b"")
    (root / "b" / "page.png").write_text("<html>404</html>")
    for _ in range(2):  # the second time from the cache
        with pytest.raises(ValueError, match="--on-bad-image replace") as error:
            scan(root, cache, "stop", None)
        for name in ["empty.jpg: empty file", "page.png: not an image"]:
            assert str(root / "b" / name) in str(error.value)
    with caplog.at_level(logging.WARNING):
        table = scan(root, cache, "replace", None)
    assert names(table) == ["a/good.jpg"]
    assert table.classes == ("a", "b")  # labels do not depend on which files are bad
    assert len(caplog.records) == 1
    assert "empty.jpg" in caplog.text
    assert "page.png" in caplog.text


def test_long_lists_of_bad_files_are_counted(root: Path, cache: Path) -> None:
    save(root / "good.jpg")
    for row in range(30):
        (root / f"{row:02}.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match="and 10 more"):
        scan(root, cache, "stop", None)


def test_kept_classes_are_labelled_in_their_order(root: Path, cache: Path) -> None:
    for name in ["a/1.png", "b/1.png", "c/1.png"]:
        save(root / name)
    (root / "b" / "bad.jpg").write_bytes(b"")
    table = scan(root, cache, "stop", ["c", "a"])
    assert table.classes == ("c", "a")
    assert [table.classes[label] for label in table.label] == [n[0] for n in names(table)]
    with pytest.raises(ValueError, match="did you mean 'a'"):
        scan(root, cache, "stop", ["aa"])
    with pytest.raises(ValueError, match="no images of a class"):
        scan(root, cache, "stop", ["../images/a"])


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("")])
def test_no_images_is_an_error(root: Path, cache: Path, make: object) -> None:
    assert callable(make)
    make(root)
    with pytest.raises(ValueError, match="images"):
        scan(root, cache, "stop", None)


def test_links_are_followed_but_not_in_circles(root: Path, cache: Path, tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "a.png")
    root.mkdir()
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(root)
    table = scan(root, cache, "stop", None)
    assert "linked/a.png" in names(table)
    assert len(table) == 1


def test_pixel_bombs_are_named(root: Path, cache: Path, nasty: Path) -> None:
    with pytest.raises(ValueError, match=r"bomb_20000x20000\.png") as error:
        scan(nasty / "bad", cache, "stop", None)
    for name in ["zero.jpg", "header_only.jpg", "text.jpg", "html.jpg", "random.jpg"]:
        assert name in str(error.value)


def test_nasty_but_good_images_have_their_size(cache: Path, nasty: Path) -> None:
    table = scan(nasty / "ok", cache, "stop", None)
    assert len(table) == len(list((nasty / "ok").iterdir())) > 35
    for row in range(len(table)):
        shape = table.source.pixels(row).shape
        assert shape == (table.height[row], table.width[row], 3), table.source.name(row)
    assert np.all(table.label == -1)
