"""The grammar of ``--data``: the data set of each name, its constants, and the errors."""

import os
import pickle
import socket
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets.cifar
import torchvision.datasets.stl10
from PIL import Image

import pipelines.sources.published
from pipelines import public
from pipelines.beton.convert import Settings, convert
from pipelines.beton.format import open_beton
from pipelines.data_facts import DATASETS, IMAGENET, data_facts
from pipelines.datasets import check_spec, default_val, open_data
from pipelines.sources.arrays import Arrays
from pipelines.sources.classes import keep_classes, match_classes, read_classes
from pipelines.sources.table import Table


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept published file names without the published contents."""
    for module in (torchvision.datasets.cifar, torchvision.datasets.stl10):
        monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: os.path.exists(path))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


def save(path: Path, width: int = 12, height: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (90, 20, 200)).save(path)
    return path


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def fake_cifar10(root: Path) -> np.ndarray:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    data = noise(0, 6, 2, 3072)
    for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        (folder / name).write_bytes(pickle.dumps({"data": data[i], "labels": [i, 9 - i]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    return data


def test_cifar10(tmp_path: Path, unchecked: None) -> None:
    data = fake_cifar10(tmp_path)
    table = open_data("cifar10", tmp_path)
    assert table.label.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    assert table.classes == tuple("abcdefghij")
    assert (table.source.pixels(3) == data[1, 1].reshape(3, 32, 32).transpose(1, 2, 0)).all()
    assert set(table.height) == set(table.width) == {32}
    val = open_data("cifar10", tmp_path, "val")
    assert val.label.tolist() == [5, 4]
    assert isinstance(val.source, Arrays)
    assert val.source.images.flags.c_contiguous


def test_cifar100(tmp_path: Path, unchecked: None) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name, count in [("train", 4), ("test", 2)]:
        labels = list(range(count))
        entry = {"data": noise(1, count, 3072), "fine_labels": labels, "coarse_labels": labels}
        (folder / name).write_bytes(pickle.dumps(entry))
    names = [f"class {i}" for i in range(100)]
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    assert open_data("cifar100", tmp_path).label.tolist() == [0, 1, 2, 3]
    assert open_data("cifar100", tmp_path, "val").classes == tuple(names)


def test_stl10_trains_on_its_unlabelled_images_too(tmp_path: Path, unchecked: None) -> None:
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    data = {name: noise(i, 3, 3, 96, 96) for i, name in enumerate(["train", "unlabeled", "test"])}
    for name, images in data.items():
        images.tofile(folder / f"{name}_X.bin")
        np.array([1, 10, 2], np.uint8).tofile(folder / f"{name}_y.bin")
    table = open_data("stl10", tmp_path)
    assert table.label.tolist() == [0, 9, 1, -1, -1, -1]
    assert table.classes[:2] == ("airplane", "bird")
    assert (table.source.pixels(4) == data["unlabeled"][1].transpose(2, 1, 0)).all()
    assert open_data("stl10", tmp_path, "val").label.tolist() == [0, 9, 1]


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10"])
def test_what_cannot_be_had_is_named_with_the_fix(tmp_path: Path, offline: None, name: str) -> None:
    with pytest.raises(ValueError, match=r"\.tar\.gz.*--data-dir") as error:
        open_data(name, tmp_path / "data")
    assert str(tmp_path / "data") in str(error.value)
    assert socket.getdefaulttimeout() is None


def fake_tiny_imagenet(root: Path) -> None:
    for i, wnid in enumerate(["n02", "n01"]):
        save(root / "train" / wnid / "images" / f"{wnid}_0.JPEG", 64, 64)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("n 0 0 1 1")
        save(root / "val" / "images" / f"val_{i}.JPEG", 64, 64)
    text = "val_0.JPEG\tn02\t0\t0\t9\t9\nval_1.JPEG\tn01\t0\t0\t9\t9\n"
    (root / "val" / "val_annotations.txt").write_text(text)


def check_tiny_imagenet(data_dir: Path) -> None:
    table = open_data("tiny-imagenet", data_dir)
    assert table.classes == ("n01", "n02")
    assert table.label.tolist() == [0, 1]
    val = open_data("tiny-imagenet", data_dir, "val")
    assert val.classes == table.classes
    assert val.label.tolist() == [1, 0]


def test_tiny_imagenet(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tiny-imagenet-200\.zip"):
        open_data("tiny-imagenet", tmp_path)
    root = tmp_path / "tiny-imagenet-200"
    fake_tiny_imagenet(root)
    check_tiny_imagenet(tmp_path)
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn01\n")
    with pytest.raises(ValueError, match=r"does not name val_1\.JPEG"):
        open_data("tiny-imagenet", tmp_path, "val")


def test_tiny_imagenet_is_unpacked(tmp_path: Path) -> None:
    fake_tiny_imagenet(tmp_path / "made" / "tiny-imagenet-200")
    (tmp_path / "data").mkdir()
    archive = tmp_path / "data" / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for file in sorted((tmp_path / "made").rglob("*")):
            packed.write(file, file.relative_to(tmp_path / "made"))
    check_tiny_imagenet(tmp_path / "data")
    assert sorted(os.listdir(tmp_path / "data")) == ["tiny-imagenet-200", archive.name]


def test_archives_do_not_leave_their_folder(tmp_path: Path) -> None:
    archive = tmp_path / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("../outside.txt", "x")
    with pytest.raises(ValueError, match="leave the folder"):
        open_data("tiny-imagenet", tmp_path)
    archive.write_bytes(b"PK damaged")
    with pytest.raises(ValueError, match="damaged"):
        open_data("tiny-imagenet", tmp_path)
    assert os.listdir(tmp_path) == [archive.name]


def test_folders_with_and_without_splits(tmp_path: Path) -> None:
    for name in ["two/train/a/1.png", "two/val/b/1.png", "one/a/1.png", "one/b/1.png"]:
        save(tmp_path / name)
    two, one = f"folder:{tmp_path}/two", f"folder:{tmp_path}/one"
    assert open_data(two, tmp_path).classes == ("a",)
    assert open_data(two, tmp_path, "val").classes == ("b",)
    assert open_data(f"{two}/val", tmp_path, "val").classes == ("b",)
    assert open_data(one, tmp_path).classes == ("a", "b")
    assert default_val(two) == two
    assert default_val(f"{two}/train") == f"{two}/val"
    assert default_val(one) is None


def test_a_class_called_train_is_no_split(tmp_path: Path) -> None:
    for name in ["bus", "car", "train"]:
        save(tmp_path / name / "1.png")
    spec = f"folder:{tmp_path}"
    assert open_data(spec, tmp_path).classes == ("bus", "car", "train")
    assert default_val(spec) is None


def test_a_missing_val_is_an_error(tmp_path: Path) -> None:
    save(tmp_path / "train" / "a" / "1.png")
    spec = f"folder:{tmp_path}"
    assert default_val(spec) is None
    with pytest.raises(ValueError, match="no val/"):
        open_data(spec, tmp_path, "val")


@pytest.mark.parametrize(
    ("train", "val"),
    [("train.beton", "val.beton"), ("set_train.beton", "set_val.beton"), ("a.beton", None)],
)
def test_val_betons_lie_beside_theirs(tmp_path: Path, train: str, val: str | None) -> None:
    spec = str(tmp_path / train)
    assert default_val(spec) is None
    for name in ["val.beton", "set_val.beton"]:
        (tmp_path / name).touch()
    assert default_val(spec) == (None if val is None else str(tmp_path / val))


@pytest.mark.parametrize("name", DATASETS)
def test_named_sets_have_their_own_test_split(name: str) -> None:
    assert default_val(name) == name
    facts = data_facts(name)
    assert facts.eval_resize is None or facts.eval_resize >= facts.image_size


def small_table(classes: tuple[str, ...] = ("a", "b", "c")) -> Table:
    images = np.arange(5 * 4 * 4 * 3, dtype=np.uint8).reshape(5, 4, 4, 3)
    sides = np.full(5, 4, np.int32)
    return Table(np.array([0, 1, 2, -1, 1]), sides, sides, Arrays("small", images), classes)


def test_a_converted_set_keeps_its_facts(tmp_path: Path) -> None:
    path = tmp_path / "x.beton"
    convert(small_table(), path, Settings(), source="cifar10")
    assert data_facts(str(path)) == DATASETS["cifar10"]
    assert open_data(str(path), tmp_path).classes == ("a", "b", "c")
    convert(small_table(), path, Settings(), source="folder:somewhere")
    assert data_facts(str(path)) == data_facts("folder:x") == IMAGENET


@pytest.mark.parametrize("kind", ["array", "beton", "folder"])
def test_kept_classes_keep_their_pixels(tmp_path: Path, kind: str) -> None:
    table = small_table()
    if kind == "beton":
        convert(table, tmp_path / "x.beton", Settings())
        table = open_beton(tmp_path / "x.beton")
    if kind == "folder":
        for row, label in enumerate([0, 1, 2, 1]):
            path = tmp_path / "in" / "abc"[label] / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(table.source.pixels(row)).save(path)
        table = open_data(f"folder:{tmp_path}/in", tmp_path)
    kept = keep_classes(table, ["c", "a"], "here")
    assert kept.classes == ("c", "a")
    for row in range(len(kept)):
        name = kept.classes[kept.label[row]]
        want = [r for r in range(len(table)) if table.label[r] == table.classes.index(name)]
        assert any((kept.source.pixels(row) == table.source.pixels(r)).all() for r in want)
    assert sorted(kept.label.tolist()) == [0, 1]


def test_classes_from_a_file(tmp_path: Path) -> None:
    for name in ["a", "b", "c"]:
        save(tmp_path / "in" / name / "1.png")
    file = tmp_path / "classes.txt"
    file.write_text("# two of three\nc  # first\n\na\n")
    assert read_classes(file) == ["c", "a"]
    table = open_data(f"folder:{tmp_path}/in", tmp_path, classes_file=file)
    assert table.classes == ("c", "a")
    assert table.label.tolist() == [1, 0]
    for text, why in [("", "no class"), ("a\na\n", "twice"), ("aa", "did you mean 'a'")]:
        file.write_text(text)
        with pytest.raises(ValueError, match=why):
            open_data(f"folder:{tmp_path}/in", tmp_path, classes_file=file)
    with pytest.raises(ValueError, match="--classes"):
        read_classes(tmp_path / "missing.txt")


def test_validation_takes_the_numbers_of_training() -> None:
    train = small_table(("x", "c", "b", "a"))
    val = match_classes(small_table(), train)
    assert val.label.tolist() == [3, 2, 1, -1, 2]
    assert val.classes == train.classes
    with pytest.raises(ValueError, match="the training data has no images of a class 'c'"):
        match_classes(small_table(), small_table(("a", "b", "d")))


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("cifar", "did you mean 'cifar10'"),
        ("CIFAR100", "did you mean 'cifar100'"),
        ("", "choose from photos"),
        ("folder:/no/such", "does not exist"),
        ("no/such.beton", "does not exist"),
        (".", "folder:."),
        (" . ", "write folder:.;"),
        ("folder:", "nothing follows folder: .*variable"),
        ("wds: ", "nothing follows wds:"),
        ("wds:.", r"is a folder: .* write 'wds:\./\*\.tar'"),
        ("folder:{file}.beton", r"{file}.beton is not a folder: write \S*\.beton$"),
        ("folder:{file}.tar", r"is not a folder: write wds:\S*\.tar$"),
        ("folder:s3://bucket/images", r"folder: reads no store: a remote file must be a \.beton"),
        ("list:https://host/list.txt", "list: reads no store"),
        ("hf://datasets/org/name", r"A Parquet data set of the Hub is hf:ORG/NAME$"),
    ],
)
def test_unknown_data_is_explained(tmp_path: Path, spec: str, why: str) -> None:
    file = tmp_path / "x"
    for ending in (".beton", ".tar"):
        file.with_suffix(ending).touch()
    with pytest.raises(ValueError, match=why.format(file=file)):
        open_data(spec.format(file=file), tmp_path)


@pytest.mark.parametrize(
    ("spec", "guess"),
    [
        ("s3:/b/x.beton", "s3://b/x.beton"),
        ("s3:///b/x.beton", "s3://b/x.beton"),
        ("gs//b/x-*.beton", "gs://b/x-*.beton"),
        ("Https:/h/x.beton?a=b", "https://h/x.beton?a=b"),
        ("hf:/datasets/o/n/x.beton", "hf://datasets/o/n/x.beton"),
        ("wds:az:/b/x.tar", "wds:az://b/x.tar"),
        ("wds:s3://b/x.tar ", "wds:s3://b/x.tar"),
        ("wds://none/x-*.tar", "wds:none/x-*.tar"),
        ("Folder://none", "folder:none"),
        ("folder: /none", "folder:/none"),
        ("'list:none.txt'", "list:none.txt"),
        ("file:///none/x.beton", "/none/x.beton"),
        ("file:///none", "folder:/none"),
        ("cifar10\n", "cifar10"),
    ],
)
def test_a_mistyped_place_is_answered_by_what_was_meant(spec: str, guess: str) -> None:
    with pytest.raises(ValueError) as error:
        check_spec(spec)
    assert str(error.value) == f"no data set {spec!r}: did you mean {guess!r}?"


def test_a_place_that_is_there_is_taken_as_it_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("s3:/b/x.beton", "'quoted' /x.beton"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
        check_spec(name)
    check_spec("S3://b/x.beton")


def test_patience_is_limited() -> None:
    assert pipelines.sources.published.DOWNLOAD_TIMEOUT <= 60


def test_numbers_and_names_that_are_numbers_in_another_order_are_refused() -> None:
    """Folders are sorted as text, "10" before "2": a label 1 may be either."""
    image, side = np.zeros((3, 1, 1, 3), np.uint8), np.ones(3, np.int32)
    numbers = Table(np.array([2, 1, 0]), side, side, Arrays("a", image))
    named = Table(np.array([0, 1, 2]), side, side, Arrays("b", image), ("0", "10", "2"))
    for val, train in ((named, numbers), (numbers, named)):
        with pytest.raises(ValueError, match=r"the names 0, 10, 2, \.\.\., which are not"):
            match_classes(val, train)
    padded = Table(named.label, side, side, named.source, ("00", "01", "02"))
    assert match_classes(padded, numbers) is padded


def test_the_python_api_s_val_is_what_a_run_scores(tmp_path: Path) -> None:
    for name, count in (("train", 4), ("val", 2)):
        (tmp_path / name / "a").mkdir(parents=True)
        (tmp_path / name / "b").mkdir()
        for number in range(count):
            kind = "ab"[number % 2] if name == "train" else "b"
            image = Image.new("RGB", (8, 8), (10 * number, 0, 0))
            image.save(tmp_path / name / kind / f"{number}.png")
        if name == "val":
            (tmp_path / name / "a").rmdir()
        table = open_data(f"folder:{tmp_path / name}", tmp_path)
        convert(table, tmp_path / f"{name}.beton", Settings())
    train = public.open_data(str(tmp_path / "train.beton"))
    val = public.open_data(train.spec, split="val", like=train)
    assert (len(train), len(val)) == (4, 2)
    assert val.spec == str(tmp_path / "val.beton")
    assert train.classes == val.classes == ("a", "b")
    assert [val.classes[label] for label in val.labels] == ["b", "b"]
    itself = public.open_data(val.spec, split="val")
    assert (itself.spec, itself.classes) == (val.spec, ("b",))
    assert public.open_data(f"folder:{tmp_path / 'train'}", split="val").spec.endswith("/val")
    (tmp_path / "train.beton").rename(tmp_path / "all.beton")
    with pytest.raises(ValueError, match=r"all.beton has no validation images with it"):
        public.open_data(str(tmp_path / "all.beton"), split="val")
