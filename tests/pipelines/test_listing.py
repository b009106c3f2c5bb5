"""Which files are data, what is counted as left out, and which folders are splits."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pipelines.system.progress
from pipelines import public
from pipelines.datasets import check_spec, default_val, open_data
from pipelines.sources.files import Files
from pipelines.sources.folder import inspect, report_bad, scan
from pipelines.sources.listing import extensions, list_images
from pipelines.sources.splits import find_splits, looks_like_split, warnings_of
from pipelines.system.units import counted


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "images"


def save(path: Path, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (6, 4)).save(path)
    return path


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


@pytest.mark.parametrize("ending", ["jfif", "jpe", "avif", "jp2", "tga", "webp", "PNG", "qoi"])
def test_every_raster_format_of_pillow_is_read(root: Path, cache: Path, ending: str) -> None:
    if f".{ending.lower()}" not in extensions():
        pytest.skip(f"this Pillow cannot read .{ending}")
    save(root / f"a.{ending}")
    table = scan(root, cache, "stop")
    assert (table.height.tolist(), table.width.tolist()) == ([4], [6])


@pytest.mark.parametrize("ending", ["pdf", "eps", "ps", "mpg", "h5", "txt", "beton", "heic"])
def test_what_is_no_raster_image_is_not_read(ending: str) -> None:
    assert f".{ending}" not in extensions()


def test_what_is_left_out_is_counted_by_ending(root: Path) -> None:
    save(root / "a" / "1.png")
    for name in ["1.HEIC", "2.heic", "notes.txt", "noending"]:
        touch(root / "a" / name)
    for name in [".ipynb_checkpoints/1-checkpoint.png", "__MACOSX/._1.png", "a/._1.png"]:
        touch(root / name)
    (root / "a" / "gone.png").symlink_to(root / "nowhere.png")
    listing = list_images(root)
    assert listing.names == ["a/1.png"]
    assert listing.left_out.text() == (
        "2 .heic (no decoder), 1 without an ending, 1 .txt, 3 hidden, 1 link to nothing"
    )


def test_hidden_folders_are_no_classes(root: Path, cache: Path) -> None:
    for name in ["cat/1.png", "dog/1.png", ".ipynb_checkpoints/1.png", ".git/x/1.png"]:
        save(root / name)
    assert scan(root, cache, "stop").classes == ("cat", "dog")


def test_a_folder_of_undecodable_images_names_them(root: Path, cache: Path) -> None:
    for row in range(12):
        touch(root / f"{row}.heic")
    with pytest.raises(ValueError, match=r"only 12 \.heic \(no decoder\)") as error:
        scan(root, cache, "stop")
    assert "convert them" in str(error.value)


def test_runs_and_the_cache_are_no_data(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(root / "cat" / "1.png")
    before = list_images(root)
    run = root / "runs" / "moco-none-images"
    save(run / "views.png")
    for name in ["config.yaml", "metrics.jsonl", "report.html"]:
        touch(run / name)
    save(root / "prepared" / "photos-v1" / "train" / "a" / "1.jpg")
    monkeypatch.setenv("UNMIX_CACHE", str(root / "prepared"))
    after = list_images(root)
    assert (after.names, after.stamp) == (before.names, before.stamp)
    assert after.left_out.outputs == 2
    inside = list_images(run)  # a run's own folder, named by the user
    assert inside.names == []
    touch(root / "cat" / "config.yaml")  # a file of settings alone makes no run
    assert list_images(root).names == before.names


def test_an_unreadable_folder_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(root / "cat" / "1.png")
    listed = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("cat"):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match=r"images/cat cannot be read .*chmod -R u\+rX"):
        list_images(root)


def test_the_summary_counts_kinds(
    root: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for row in range(3):
        save(root / f"{row}.jpg")
    save(root / "a.png", "RGBA")
    save(root / "b.png")
    deep = np.array([[0, 4000]], np.uint16)
    Image.fromarray(deep).save(root / "deep.tiff")
    touch(root / "bad.jpg")
    touch(root / "c.heic")
    summary = inspect(root, cache).summary
    expected = (
        "6 images: 3 JPEG, 2 PNG (1 with alpha, on white), 1 TIFF 16-bit (0 to 4,095 scaled to "
        "0 to 255); 1 cannot be read; left out: 1 .heic (no decoder)"
    )
    assert summary.text() == expected
    pipelines.system.progress._printed.clear()
    with caplog.at_level(logging.INFO, "pipelines"):
        for _ in range(2):  # the second time from the cache, and not printed again
            scan(root, cache, "replace")
    assert [r.getMessage() for r in caplog.records].count(f"{root}: {expected}") == 1


def test_numbers_have_their_nouns() -> None:
    assert [counted(1, "class"), counted(1200, "class")] == ["1 class", "1,200 classes"]
    assert [counted(2, "epoch"), counted(2, "batch")] == ["2 epochs", "2 batches"]


def test_the_public_loader_has_the_summary(root: Path) -> None:
    save(root / "a" / "1.png", "RGBA")
    touch(root / "a" / "2.txt")
    summary = public.open_data(f"folder:{root}").summary()
    assert summary is not None
    assert summary.text() == "1 image: 1 PNG (1 with alpha, on white); left out: 1 .txt"


def test_other_processes_print_nothing(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save(root / "a.jpg")
    monkeypatch.setenv("RANK", "1")
    with caplog.at_level(logging.INFO, "pipelines"):
        scan(root, cache, "stop")
    assert "1 image" not in caplog.text


@pytest.mark.parametrize(
    ("folders", "train", "val"),
    [
        (["train", "val"], "train", "val"),
        (["training", "validation"], "training", "validation"),
        (["Train", "Val"], "Train", "Val"),
        (["TRAIN", "VALID"], "TRAIN", "VALID"),
        (["train", "test"], "train", "test"),
        (["train", "testing", "val"], "train", "val"),
    ],
)
def test_usual_names_are_splits(root: Path, folders: list[str], train: str, val: str) -> None:
    for name in folders:
        save(root / name / "cat" / f"{name}.png")
    spec = f"folder:{root}"
    assert default_val(spec) == spec
    for split, name in (("train", train), ("val", val)):
        source = open_data(spec, root, split).source  # type: ignore[arg-type]
        assert isinstance(source, Files)
        assert source.names == [f"cat/{name}.png"]
    assert default_val(f"folder:{root / train}") == f"folder:{root / val}"


def test_scores_of_a_test_split_are_announced(root: Path) -> None:
    for name in ["train/a/1.png", "test/a/1.png", "extra/a/1.png"]:
        save(root / name)
    splits = find_splits(root)
    assert splits is not None
    assert splits.notes() == [
        f"{root} has no val/: the scores are those of test/",
        f"{root}: extra/ not used; --data and --val-data name a folder",
    ]


def test_scores_of_a_test_folder_next_to_train_are_announced(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ["train/a/1.png", "test/a/1.png"]:
        save(root / name)
    assert default_val(f"folder:{root}/train") == f"folder:{root}/test"
    assert f"{root} has no val/: the scores are those of test/" in caplog.text


def test_unreadable_files_have_a_remedy() -> None:
    with pytest.raises(ValueError, match=r"chmod u\+r FILE"):
        report_bad({"a.jpg": "[Errno 13] Permission denied: 'a.jpg'"}, "stop")


def test_validation_images_alone_are_refused(root: Path) -> None:
    for name in ["val/a/1.png", "test/a/1.png"]:
        save(root / name)
    with pytest.raises(ValueError, match=r"test/, val/ but no train/.*folder:"):
        find_splits(root)


def test_words_of_splits() -> None:
    assert all(map(looks_like_split, ["train2017", "seg_test", "Val", "images-valid", "dev"]))
    assert not any(map(looks_like_split, ["cat", "trainer", "valley", "contest", "devil"]))


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["images/cat/1", "images/dog/1"], "folder:ROOT/images"),
        (
            ["a/v1/cat/1", "a/v1/dog/1", "a/v1/1"],
            "2 folders in a/v1 (cat, dog) are the classes: fold",
        ),
        (["a/cat/1", "a/dog/1", "b/cat/1", "b/dog/1"], "its 2 folders (a, b), and each of them ho"),
        (["a/v/cat/1", "a/v/dog/1", "b/cat/1", "b/dog/1"], "one part, folder:ROOT/a/v, or put the"),
        (["1.png", "cat/2", "dog/3"], "1 image lies in no class folder (1.png), and so no image"),
        (["1", "2", "cat/2"], "--classes FILE, a name a line (cat)"),
        (["set/train/cat/1", "set/val/cat/1"], "are the splits: folder:ROOT/set"),
        (["train2017/1", "val2017/1"], "--data folder:ROOT/train2017 --val-data folder:ROOT/val20"),
        (["cat/1", "dog/1", "test/1"], "test is trained on as a class"),
        (["cat/train/1", "cat/test/1", "dog/train/1", "dog/test/1"], "2 images in 2 folders"),
    ],
)
def test_folders_that_look_like_a_mistake_are_named(names: list[str], told: str) -> None:
    (line,) = warnings_of(Path("ROOT"), names)
    assert told in line


@pytest.mark.parametrize(
    "names",
    [
        ["cat/1", "dog/1"],
        ["cat/a/1", "dog/b/1"],
        ["cat/a/1", "dog/a/1"],
        ["cat/a/b/1"],
        ["1", "2"],
        ["cat/1"],
    ],
)
def test_usual_folders_are_not_questioned(names: list[str]) -> None:
    assert warnings_of(Path("ROOT"), names) == []


def test_missing_shards_are_named() -> None:
    with pytest.raises(ValueError, match=r"wds:a-\{0\.\.3\}\.tar: a-0\.tar does not exist"):
        check_spec("wds:a-{0..3}.tar")
    with pytest.raises(ValueError, match=r"write wds:x\.tar"):
        check_spec("x.tar")
