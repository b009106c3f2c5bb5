"""The embedded data set: always the same, complete or absent, and split without overlap."""

import hashlib
import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pipelines.sources.photos
from pipelines.data_facts import DATASETS
from pipelines.sources.folder import scan
from pipelines.sources.photos import (
    PATCHES,
    SIZE,
    TRAIN_SHARE,
    cut_patch,
    cut_photograph,
    draw_cut,
    find_photographs,
    prepare_photos,
)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines.sources.photos, "PATCHES", {"train": 3, "val": 2})


def digest(folder: Path) -> str:
    found = hashlib.sha256()
    for file in sorted(folder.rglob("*.jpg")):
        found.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return found.hexdigest()


def test_it_is_a_labelled_folder_and_always_the_same(tmp_path: Path, few: None) -> None:
    first = prepare_photos(tmp_path / "one")
    again = prepare_photos(tmp_path / "two")
    assert digest(first) == digest(again)
    assert os.listdir(tmp_path / "one") == [first.name]
    names = tuple(find_photographs())
    assert len(names) >= 15
    for split, count in [("train", 3), ("val", 2)]:
        table = scan(first / split, tmp_path / "cache", "stop", None)
        assert table.classes == names
        assert np.bincount(table.label).tolist() == [count] * len(names)
        assert set(table.height) == set(table.width) == {SIZE}


def test_it_is_made_once(tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_photos(tmp_path)
    monkeypatch.setattr(pipelines.sources.photos, "cut_photograph", None)
    assert prepare_photos(tmp_path).is_dir()


def test_an_interrupted_build_leaves_nothing(
    tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, number: int) -> None:
        if number == 2:
            raise KeyboardInterrupt
        return real(path, number)

    real = cut_photograph
    monkeypatch.setattr(pipelines.sources.photos, "cut_photograph", fail)
    with pytest.raises(KeyboardInterrupt):
        prepare_photos(tmp_path)
    assert os.listdir(tmp_path) == []


def test_training_and_validation_share_no_pixel(tmp_path: Path) -> None:
    """Patches of a red left part hold no blue, and the other way round."""
    width, height = 400, 200
    picture = np.zeros((height, width, 3), np.uint8)
    edge = round(width * TRAIN_SHARE)
    picture[:, :edge, 0] = 200
    picture[:, edge:, 2] = 200
    Image.fromarray(picture).save(tmp_path / "split.png")
    cut = cut_photograph(tmp_path / "split.png", 0)
    assert {split: len(images) for split, images in cut.items()} == PATCHES
    for image in cut["train"]:
        assert np.asarray(image)[..., 0].min() > np.asarray(image)[..., 2].max()
    for image in cut["val"]:
        assert np.asarray(image)[..., 2].min() > np.asarray(image)[..., 0].max()


@pytest.mark.parametrize(("width", "height"), [(96, 172), (384, 191), (2000, 60)])
def test_every_patch_lies_inside_its_region(width: int, height: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        cut = draw_cut(width, height, rng)
        reach = cut.scale * SIZE * (abs(math.cos(cut.radians)) + abs(math.sin(cut.radians))) / 2
        assert cut.x - reach >= 0
        assert cut.x + reach <= width
        assert cut.y - reach >= 0
        assert cut.y + reach <= height


def test_a_patch_shows_what_lies_at_its_place() -> None:
    """Unturned, unmirrored, at scale 1 and neutral light, a patch is a crop."""
    picture = np.random.default_rng(0).integers(60, 200, (120, 150, 3), np.uint8)
    smooth = Image.fromarray(picture).resize((75, 60)).resize((150, 120), Image.Resampling.BICUBIC)
    plain = pipelines.sources.photos.Cut(70.0, 50.0, 1.0, 0.0, False, (1.0, 1.0, 1.0), 1.0)
    want = np.asarray(smooth.crop((70 - 24, 50 - 24, 70 + 24, 50 + 24))).astype(int)
    assert np.abs(np.asarray(cut_patch(smooth, plain)).astype(int) - want).mean() < 2
    mirrored = pipelines.sources.photos.Cut(70.0, 50.0, 1.0, 0.0, True, (1.0, 1.0, 1.0), 1.0)
    got = np.asarray(cut_patch(smooth, mirrored)).astype(int)
    assert np.abs(got - want[:, ::-1]).mean() < 2


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pipelines.sources.photos.PHOTOGRAPHS, "no_such_package/data", "a.png")
    with pytest.raises(ValueError, match="no_such_package"):
        find_photographs()


def test_the_recorded_mean_is_that_of_the_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines.sources.photos, "PATCHES", {"train": 20, "val": 20})
    paths = find_photographs().values()
    images = [np.asarray(cut_photograph(p, i)["train"]) for i, p in enumerate(paths)]
    pixels = np.concatenate(images).reshape(-1, 3) / 255
    facts = DATASETS["photos"]
    np.testing.assert_allclose(pixels.mean(0), facts.mean, atol=0.04)
    np.testing.assert_allclose(pixels.std(0), facts.std, atol=0.04)
