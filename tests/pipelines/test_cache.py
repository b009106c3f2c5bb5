"""The cache: its limit, what is removed first, what is never removed, and how it is listed."""

import fcntl
import logging
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.beton.convert import cached_beton
from pipelines.sources.beton import Beton
from pipelines.sources.folder import scan
from pipelines.sources.table import Table
from pipelines.system import cache
from pipelines.system.atomic import building, replacing
from tools import doctor


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "betons").mkdir(parents=True)
    return tmp_path / "cache"


def file(root: Path, name: str, kilobytes: int, hours_ago: float) -> Path:
    path = root / "betons" / name
    path.write_bytes(bytes(1000 * kilobytes))
    used = time.time() - 3600 * hours_ago
    os.utime(path, (used, used))
    return path


def test_the_least_recently_used_go_first(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, older, new = (file(root, f"{n}.beton", 1000, h) for n, h in [("b", 2), ("a", 9), ("c", 1)])
    older.with_name("a.beton.json").write_text("{}")
    monkeypatch.setenv("UNMIX_CACHE_LIMIT", "0.0035")
    cache.make_room(1_000_000)
    assert [path.exists() for path in (older, old, new)] == [False, True, True]
    assert not older.with_name("a.beton.json").exists()
    cache.make_room(2_000_000)
    assert [path.exists() for path in (old, new)] == [False, True]


def test_what_is_in_use_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used, free = file(root, "a.beton", 1000, 9), file(root, "b.beton", 1000, 1)
    monkeypatch.setenv("UNMIX_CACHE_LIMIT", "0.002")
    with used.open("rb") as other:  # as another process holds it
        fcntl.flock(other, fcntl.LOCK_SH)
        cache.make_room(900_000)
        assert used.exists() and not free.exists()
        assert [entry.path for entry in cache.empty()[1]] == [used]
    cache.empty()
    assert not used.exists()


def test_use_is_remembered(root: Path) -> None:
    first, second = file(root, "a.beton", 1, 9), file(root, "b.beton", 1, 5)
    changed = first.stat().st_mtime_ns
    cache.hold(first)
    assert [entry.path for entry in cache.entries()] == [second, first]
    assert first.stat().st_mtime_ns == changed
    assert not cache.remove(first)


def test_half_files_of_killed_processes_go(root: Path) -> None:
    killed = file(root, ".a.beton.x.tmp", 1, 1)
    fresh = file(root, ".b.beton.x.tmp", 1, 0)
    folder = root / ".photos-v1.x.tmp"
    (folder / "train").mkdir(parents=True)
    os.utime(folder, (0, 0))
    assert set(cache.remove_abandoned()) == {killed, folder}
    assert fresh.exists()  # perhaps just being made


def test_half_files_that_are_being_written_stay(root: Path) -> None:
    with replacing(root / "betons" / "a.beton") as half, building(root / "photos") as folder:
        for path in (half, folder):
            os.utime(path, (0, 0))  # a slow disk
        assert cache.remove_abandoned() == []
        assert half.exists() and folder.exists()
    assert (root / "betons" / "a.beton").exists()


@pytest.mark.parametrize(("text", "limit"), [("", 20e9), ("5", 5e9), ("0.5 GB", 5e8), ("0", 0)])
def test_the_limit_is_in_gigabytes(
    text: str, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNMIX_CACHE_LIMIT", text)
    assert cache.size_limit() == limit


@pytest.mark.parametrize("text", ["many", "-1", "nan", "inf"])
def test_other_limits_are_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMIX_CACHE_LIMIT", text)
    with pytest.raises(ValueError, match="UNMIX_CACHE_LIMIT=20"):
        cache.size_limit()


def test_more_than_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMIX_CACHE_LIMIT", "1")
    with pytest.raises(ValueError, match=r"1\.5 GB do not fit .* UNMIX_CACHE_LIMIT"):
        cache.make_room(1_500_000_000)


def save(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (value, 0, 0)).save(path)


def converted(images: Path) -> Beton:
    table = cached_beton(scan(images, cache.cache_root(), "stop"), f"folder:{images}")
    assert isinstance(table.source, Beton)
    return table.source


def test_changed_folders_leave_one_copy(tmp_path: Path, root: Path) -> None:
    images = tmp_path / "images"
    save(images / "a.png", 1)
    for row in range(3):
        save(images / f"{row}.png", row)
        source = converted(images)
        cache.hold(source.path)
        os.close(cache._held.pop(source.path))  # that run has ended
        assert sorted((root / "betons").glob("*.beton")) == [source.path]
    other = tmp_path / "other"
    save(other / "a.png", 1)
    converted(other)
    assert len(list((root / "betons").glob("*.beton"))) == 2


def test_two_selections_of_a_folder_share_the_cache(tmp_path: Path, root: Path) -> None:
    images = tmp_path / "images"
    for row in range(4):
        save(images / f"{row}.png", row)
    whole = scan(images, root, "stop")
    tables: list[Table] = [whole, whole.take(np.arange(2)), whole]
    paths = [cached_beton(table, "folder:x").source for table in tables]
    assert len(list((root / "betons").glob("*.beton"))) == 2
    assert isinstance(paths[0], Beton) and isinstance(paths[2], Beton)
    assert paths[0].path == paths[2].path


def test_a_read_only_cache_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").write_text("in the way")
    save(tmp_path / "images" / "a.png", 1)
    with caplog.at_level(logging.WARNING):
        table = scan(tmp_path / "images", cache.cache_root(), "stop")
    assert "UNMIX_CACHE names another folder" in caplog.text
    with pytest.raises(ValueError, match="UNMIX_CACHE names another folder"):
        cached_beton(table, "folder:x")


def test_the_doctor_lists_and_empties_it(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = file(root, "a.beton", 1000, 9)
    assert doctor.main(["--cache"]) == 0
    listed = capsys.readouterr().out
    assert "1.0 MB  used" in listed and "betons/a.beton" in listed and "of 20.0 GB" in listed
    assert doctor.main(["--cache", "--empty"]) == 0
    assert "removed 1 entries, 1.0 MB" in capsys.readouterr().out
    assert not path.exists()
    assert doctor.main(["--empty"]) == 2


def test_pieces_of_remote_files_are_listed_by_url_and_have_no_part_in_the_limit(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    used, free = (root / "remote" / name for name in ("0a1b", "2c3d"))
    for folder in (used, free):
        folder.mkdir(parents=True)
        (folder / "train.beton").write_bytes(bytes(1_000_000))
        (folder / "meta.json").write_text(f'{{"url": "s3://bucket/{folder.name}.beton"}}')
    (free / "meta.json").write_text("{")
    copy = file(root, "a.beton", 1000, 9)
    monkeypatch.setenv("UNMIX_CACHE_LIMIT", "0.0025")
    cache.make_room(1_000_000)
    assert copy.exists() and used.exists() and free.exists()
    cache.hold(used)
    assert doctor.main(["--cache"]) == 0
    text = capsys.readouterr().out
    assert "remote/0a1b  s3://bucket/0a1b.beton" in text
    assert "remote/2c3d  (its record cannot be read)" in text
    assert "fetched of remote files: 2 entries, 2.0 MB (--cache-size" in text
    assert "cache: 1.0 MB of 2.5 MB (UNMIX_CACHE_LIMIT)" in text
    assert doctor.main(["--cache", "--empty"]) == 0
    assert used.exists() and not free.exists() and not copy.exists()
    assert "in use: 1 entries" in capsys.readouterr().out
