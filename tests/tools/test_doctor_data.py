"""tools/doctor.py --data: kinds, sizes, copies, damage, and flags that fit."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.beton.convert import Settings, convert
from pipelines.sources.folder import scan
from tools import doctor
from tools.diagnostics.data import check_data


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
        "2 classes of 6 to 6 images",
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


def test_a_beton_and_what_is_missing(images: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.beton"
    convert(scan(images, tmp_path / "cache", "stop"), path, Settings())
    report = check_data(str(path), deep=True)
    assert "12 of 12 images decode" in report.lines
    assert doctor.main(["--data", str(tmp_path / "nowhere")]) == 2
    assert doctor.main(["--data", str(tmp_path / "nowhere.beton")]) == 2
    assert doctor.main(["--deep"]) == 2
