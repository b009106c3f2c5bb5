"""tools/doctor.py --data: kinds, sizes, copies, damage, and flags that fit."""

import re
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.beton.convert import Settings, convert
from pipelines.sources.folder import scan
from pipelines.sources.subset import hold_out
from tools import doctor
from tools.diagnostics.data import check_data


def blank_png(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", header), (b"IDAT", b""), (b"IEND", b""))
    )


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve sound images of two classes, 40 to 45 pixels high."""
    draw = np.random.default_rng(0)
    root = tmp_path / "images"
    for row in range(12):
        path = root / "ab"[row % 2] / f"{row}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (40 + row // 2, 50, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return root


def test_a_sound_folder(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--data", f"folder:{images}", "--deep"]) == 0
    out = capsys.readouterr().out
    for line in [
        f"{images}: 12 images: 12 JPEG",
        "smallest 40, quarter 41, median 42, three quarters 44, largest 45",
        "2 classes of 6 images",
        "12 of 12 images decode",
        "--image-size 48",
        "--val-fraction 0.1",
        "--batch-size 4 --groups 1",
        "no problem was found",
    ]:
        assert line in out, line


def test_damage_copies_and_misplaced_folders_are_found(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "a" / "copy.jpg").write_bytes((images / "a" / "0.jpg").read_bytes())
    (images / "b" / "cut.jpg").write_bytes((images / "b" / "1.jpg").read_bytes()[:1200])
    (images / "b" / "html.png").write_text("<html>")
    (images / "test").mkdir()
    (images / "a" / "2.jpg").rename(images / "test" / "2.jpg")
    assert doctor.main(["--data", str(images)]) == 1
    out = capsys.readouterr().out
    assert "copies of other files: 1 (a/0.jpg = a/copy.jpg)" in out
    assert "html.png: not an image" in out
    assert "test is trained on as a class" in out
    assert "cut.jpg" not in out  # its header is sound
    assert doctor.main(["--data", str(images), "--deep"]) == 1
    assert "cut.jpg: image file is truncated" in capsys.readouterr().out


def test_a_loose_image_and_deeper_classes_are_told(images: Path) -> None:
    (images / "a" / "0.jpg").rename(images / "cover.jpg")
    (problem,) = check_data(str(images), deep=False).problems
    assert "1 image lies in no class folder (cover.jpg)" in problem
    table = scan(images, images.parent / "cache", "stop")
    with pytest.raises(ValueError, match=r"needs class folders: 1 image lies .*cover\.jpg"):
        hold_out(table, 0.1, 0)
    (images / "cover.jpg").unlink()
    (images / "v1").mkdir()
    for name in "ab":
        (images / name).rename(images / "v1" / name)
    (problem,) = check_data(str(images.parent), deep=False).problems
    assert problem.endswith(f"folder:{images / 'v1'}")


@pytest.mark.parametrize("deep", [False, True])
def test_what_was_not_looked_at_is_said(images: Path, deep: bool) -> None:
    told = any(
        "only headers were read: --deep" in x for x in check_data(str(images), deep=deep).lines
    )
    assert told is not deep


def test_a_mistyped_place_is_answered_by_what_was_meant(images: Path) -> None:
    for place, guess in [
        (f"Folder:{images}", f"folder:{images}"),
        (f"folder:{images} ", f"folder:{images}"),
        ("wds://none/*.tar", "wds:none/*.tar"),
    ]:
        with pytest.raises(ValueError, match=re.escape(f"did you mean {guess!r}?")):
            check_data(place, deep=False)


def test_splits_gray_and_deep_images(tmp_path: Path) -> None:
    for split, most in [("train", 1000), ("val", 1000)]:
        for name in "abc":
            path = tmp_path / split / name / "1.tiff"
            path.parent.mkdir(parents=True)
            Image.fromarray(np.full((200, 300), most, np.uint16)).save(path)
    report = check_data(str(tmp_path), deep=False)
    assert f"{tmp_path}: split into train/, val/" in report.lines
    assert not report.problems
    advice = "\n".join(report.advice)
    assert "--in-chans 1" in advice and "--depth-range 0 1023" in advice
    assert "--val-fraction" not in advice and "--image-size" not in advice


def test_its_own_problems_have_a_flag(images: Path) -> None:
    whole, cut = images / "a" / "0.jpg", images / "a" / "cut.jpg"
    cut.write_bytes(whole.read_bytes()[:1200])
    (images / "a" / "empty.jpg").write_bytes(b"")
    (images / "b" / "huge.png").write_bytes(blank_png(20_000, 10_000))
    for name, kind, most in [("i", np.uint16, 1000), ("f", np.float32, 1)]:
        Image.fromarray(np.array([[0, most]], kind)).save(images / "b" / f"{name}.tiff")
    report = check_data(str(images), deep=True)
    assert "2 classes of 7 to 8 images" in report.lines  # of the readable ones only
    assert "14 of 15 images decode" in report.lines
    assert report.problems == [
        f"{images}/a/empty.jpg: empty file",
        f"{images}/b/huge.png: 20000x10000 pixels are over the limit of 178,956,970; "
        "--max-pixels 200000000 takes it",
        next(problem for problem in report.problems if problem.startswith(f"{cut}: image file")),
    ]
    ranges = [line for line in report.advice if "--depth-range" in line]
    assert len(ranges) == 1 and ranges[0].startswith("no --depth-range: integer samples (0 to 1023")
    assert any(line.startswith("--max-pixels 200000000: ") for line in report.advice)
    assert any("works without 3 images named" in line for line in report.advice)


def test_one_image_is_no_plural(images: Path) -> None:
    shutil.rmtree(images / "a")
    for path in sorted((images / "b").iterdir())[1:]:
        path.unlink()
    report = check_data(str(images), deep=True)
    assert "1 class of 1 image" in report.lines and "1 of 1 image decodes" in report.lines


def test_a_beton_and_what_is_missing(images: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.beton"
    convert(scan(images, tmp_path / "cache", "stop"), path, Settings())
    report = check_data(str(path), deep=True)
    assert "12 of 12 images decode" in report.lines
    assert doctor.main(["--data", str(tmp_path / "nowhere")]) == 2
    assert doctor.main(["--data", str(tmp_path / "nowhere.beton")]) == 2
    assert doctor.main(["--deep"]) == 2
