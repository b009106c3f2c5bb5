"""``list:FILE``: what its lines mean, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from shard_cases import photo

import pipelines.sources.headers
from pipelines import open_data
from pipelines.beton.parts import stored_table
from pipelines.datasets import check_spec, default_val
from pipelines.datasets import open_data as open_table
from pipelines.sources.file_list import read_list
from pipelines.sources.files import Files
from pipelines.sources.image_file import ImageRules
from pipelines.sources.overlap import rows_in
from pipelines.sources.table import Table

FILES = ("a/cat 1.jpg", "a/2.jpg", "b/3.jpg", "my cat.jpg")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, name in enumerate(FILES):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(photo(seed, 20 + seed, 30))
    return tmp_path / "data"


def listed(root: Path, text: str, name: str = "train.txt") -> Table:
    (root / name).write_text(text)
    return open_table(f"list:{root / name}", root)


def names(table: Table) -> list[str]:
    assert isinstance(table.source, Files)
    return list(table.source.names)


LISTS: dict[str, tuple[str, list[str], list[int], tuple[str, ...]]] = {
    "paths alone": ("b/3.jpg\na/2.jpg\n", ["b/3.jpg", "a/2.jpg"], [-1, -1], ()),
    "names": ("b/3.jpg dog\na/2.jpg cat\n", ["b/3.jpg", "a/2.jpg"], [1, 0], ("cat", "dog")),
    "numbers": ("b/3.jpg 7\na/2.jpg 0", ["b/3.jpg", "a/2.jpg"], [7, 0], ()),
    "spaces in a path": ("my cat.jpg\na/cat 1.jpg 2", ["my cat.jpg", "a/cat 1.jpg"], [-1, 2], ()),
    "spaces in a class": (
        "a/2.jpg\tbig cat\nmy cat.jpg\tdog", ["a/2.jpg", "my cat.jpg"], [0, 1], ("big cat", "dog")
    ),
    "comments": ("# all\n\n  ./a/2.jpg  x \r\n#b/3.jpg", ["a/2.jpg"], [0], ("x",)),
    "a byte order mark": ("\ufeffa/2.jpg 3", ["a/2.jpg"], [3], ()),
    "numbers and names": ("a/2.jpg 1\nb/3.jpg x", ["a/2.jpg", "b/3.jpg"], [0, 1], ("1", "x")),
    "below another folder": ("../data/b/3.jpg 1", ["../data/b/3.jpg"], [1], ()),
}  # fmt: skip


@pytest.mark.parametrize("case", LISTS)
def test_a_line_is_an_image_and_its_class(case: str, root: Path) -> None:
    text, files, label, classes = LISTS[case]
    table = listed(root, text)
    assert names(table) == files
    assert (table.label.tolist(), table.classes) == (label, classes)
    for row, name in enumerate(files):
        assert (table.source.encoded(row) == np.fromfile(root / name, np.uint8)).all()
        assert table.source.pixels(row).shape == (table.height[row], table.width[row], 3)


def test_an_absolute_path_stays_one(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    table = listed(tmp_path / "elsewhere", f"{root}/a/2.jpg 1\n{root}/b/3.jpg 0")
    assert table.source.name(0) == f"{root}/a/2.jpg"
    whole = open_table(f"folder:{root}", root)
    assert rows_in(table, whole).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a/2.jpg\n\nb/none.jpg 3\n", "1 of 2 files are not there.*\n  line 3: .*b/none.jpg"),
        ("a/2.jpg 1\n./a/2.jpg 2", r"line 2 names 'a/2.jpg', as line 1 does"),
        ("# nothing\n", "names no image"),
        ("a/2.jpg 16777217", "16777217 is no class number"),
        ("a/2.jpg big cat", "a class with spaces follows a tab"),
        ("a/2.jpg,cat", "a space, and no comma, comes before a class"),
        ("a", "line 1: .*/a"),
        ("a/2.jpg\nbad.jpg", "bad.jpg: empty file.*\n.*--on-bad-image replace"),
    ],
)
def test_a_wrong_line_is_named(text: str, words: str, root: Path) -> None:
    (root / "bad.jpg").touch()
    with pytest.raises(ValueError, match=words):
        listed(root, text)


def test_a_list_of_other_bands_is_named(root: Path) -> None:
    listed(root, "a/2.jpg")
    with pytest.raises(ValueError, match=rf"^{root}/train\.txt: "):
        open_table(f"list:{root / 'train.txt'}", root, rules=ImageRules(channels=4))


def test_a_list_that_is_none_is_named(root: Path) -> None:
    with pytest.raises(ValueError, match=r"none.txt does not exist"):
        check_spec(f"list:{root}/none.txt")
    with pytest.raises(ValueError, match=r"is a folder: write folder:PATH"):
        check_spec(f"list:{root}")


def test_bad_images_are_left_out_and_the_labels_stay(root: Path) -> None:
    (root / "bad.jpg").touch()
    (root / "x.txt").write_text("a/2.jpg one\nbad.jpg two\nb/3.jpg two\n")
    table = open_table(f"list:{root / 'x.txt'}", root, on_bad="replace")
    assert (names(table), table.label.tolist()) == (["a/2.jpg", "b/3.jpg"], [0, 1])


def test_headers_are_read_once_for_each_list(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = listed(root, "a/2.jpg 1\n")
    second = listed(root, "b/3.jpg 1\n", "other.txt")
    monkeypatch.setattr(pipelines.sources.headers, "measure", lambda *_: pytest.fail("read again"))
    assert names(listed(root, "a/2.jpg 1\n")) == names(first)
    assert names(listed(root, "b/3.jpg 1\n", "other.txt")) == names(second)


def test_validation_images_are_a_list_next_to_it(root: Path) -> None:
    listed(root, "a/2.jpg")
    assert default_val(f"list:{root}/train.txt") is None
    listed(root, "b/3.jpg", "val.txt")
    assert default_val(f"list:{root}/train.txt") == f"list:{root}/val.txt"


def test_a_copy_in_the_cache_follows_the_list(root: Path) -> None:
    spec = f"list:{root / 'train.txt'}"
    first = stored_table(listed(root, "a/2.jpg 1\nb/3.jpg 0"), spec)
    other = stored_table(listed(root, "a/2.jpg 1\n", "other.txt"), spec)
    changed = stored_table(listed(root, "a/2.jpg 1\n"), spec)
    paths = [table.source.path for table in (first, other, changed)]  # type: ignore[attr-defined]
    assert not paths[0].exists() or paths[0] != paths[2]
    assert paths[1].exists()
    assert changed.source.name(0) == f"{root}/a/2.jpg"


def test_the_summary_is_that_of_the_list(root: Path) -> None:
    listed(root, "a/2.jpg\nb/3.jpg")
    found = open_data(f"list:{root / 'train.txt'}").summary()
    assert found is not None
    assert found.text() == "2 images: 2 JPEG"
    assert read_list(root / "train.txt").words == ["", ""]
