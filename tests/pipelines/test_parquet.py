"""Parquet files: the same .beton as from a folder, classes by name, and what is refused."""

import io
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro
from PIL import Image

import pipelines.beton.convert
from pipelines.beton.format import manifest_path, open_beton
from pipelines.datasets import check_spec
from pipelines.sources import parquet_file
from pipelines.sources.folder import scan
from pipelines.sources.parquet import find_parquet, open_parquet
from pipelines.sources.parquet_schema import Choice
from pipelines.sources.table import Table
from tools.write_ffcv import Arguments, main

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

BYTES = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def encoded(value: int, kind: str = "JPEG", size: tuple[int, int] = (12, 10)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (value, value // 2, 0)).save(file, kind)
    return file.getvalue()


def cells(data: Sequence[bytes | None]) -> list[dict[str, Any]]:
    return [{"bytes": one, "path": f"{i}.jpg"} for i, one in enumerate(data)]


def write(
    path: Path, columns: dict[str, Any], names: Sequence[str] = (), label: str = "label", **how: Any
) -> Path:
    """Write a file as Hugging Face's library does, if classes are named."""
    meta = None
    if names:
        features = {"image": {"_type": "Image"}, label: {"_type": "ClassLabel", "names": [*names]}}
        meta = {"huggingface": json.dumps({"info": {"features": features}})}
    arrays = dict(columns)
    for name, value in columns.items():
        arrays[name] = pa.array(value, BYTES) if name in ("image", "img") else value
    pq.write_table(pa.table(arrays).replace_schema_metadata(meta), path, **how)
    return path


def opened(path: Path, **choice: Any) -> Table:
    return open_parquet(find_parquet(str(path)), f"parquet:{path}", Choice(**choice))


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder of 50 images, two of them damaged, and the same as two parquet files."""
    data, label = [], []
    for row in range(50):
        path = tmp_path / "folder" / "ab"[row >= 20] / f"{row:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        good = encoded(5 * row, "PNG" if row % 5 == 0 else "JPEG", (8 + row, 9))
        data.append(good if row not in (7, 33) else good[:50])
        label.append(int(row >= 20))
        path.write_bytes(data[-1])
    (tmp_path / "p").mkdir()
    for part, (begin, end) in enumerate([(0, 41), (41, 50)]):
        columns = {"label": label[begin:end], "image": cells(data[begin:end])}
        write(tmp_path / "p" / f"{part}.parquet", columns, "ab", row_group_size=13)
    yield tmp_path / "folder", f"parquet:{tmp_path}/p/{{0,1}}.parquet"


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--shuffle", "3"),
        ("--keep-jpeg", "--max-size", "20"),
        ("--shuffle", "3", "--shard", "1/3"),
        ("--shard", "2/3"),
    ],
)
def test_a_parquet_file_gives_the_folders_very_file(
    both: tuple[Path, str], tmp_path: Path, flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, parquet = both
    monkeypatch.setattr("pipelines.sources.parquet_rows.PART_ROWS", 7)
    for source in (str(folder), parquet):
        assert main([source, str(tmp_path / "a.beton"), "--on-error", "skip", *flags]) == 0
        assert [path.name for path in tmp_path.glob(".*")] == []
        (tmp_path / "a.beton").rename(tmp_path / f"{source[:4]}.beton")
    made, wanted = tmp_path / "parq.beton", tmp_path / f"{str(folder)[:4]}.beton"
    assert made.read_bytes() == wanted.read_bytes()
    written = json.loads((tmp_path / "a.beton.json").read_text())
    assert written["classes"] == ["a", "b"] and written["source"] == parquet


def test_worker_processes_get_the_bytes(
    both: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, parquet = both
    command = [parquet, str(tmp_path / "a.beton"), "--on-error", "skip", "--workers", "2"]
    assert main(command) == 0
    alone = (tmp_path / "a.beton").read_bytes()
    monkeypatch.setattr(pipelines.beton.convert, "FEW", 0)
    assert main([*command, "--overwrite"]) == 0
    assert (tmp_path / "a.beton").read_bytes() == alone


def test_damaged_and_absent_images_are_named_by_file_and_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [encoded(1), None, b"\xff\xd8 no image", encoded(2), None]
    image = [*cells(data[:4]), None]
    image[1] = {"bytes": None, "path": None}
    path = write(tmp_path / "a.parquet", {"image": image, "label": [0, 1, None, 1, 0]})
    command = [f"parquet:{path}", str(tmp_path / "a.beton")]
    assert main(command) == 2
    error = capsys.readouterr().err
    for row, why in [(1, "no image (null)"), (2, "not an image"), (4, "no image (null)")]:
        assert f"{path} row {row}: " in error and why in error
    assert not (tmp_path / "a.beton").exists()
    assert main([*command, "--on-error", "skip"]) == 0
    names = [bad["name"] for bad in json.loads((tmp_path / "a.beton.json").read_text())["skipped"]]
    assert names == [f"{path} row {row}" for row in (1, 2, 4)]
    assert open_beton(tmp_path / "a.beton").label.tolist() == [0, 1]


def test_rows_that_have_only_a_path_are_damaged_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = [*cells([encoded(1)]), {"bytes": None, "path": "x/b.jpg"}, *cells([encoded(2)])]
    path = write(tmp_path / "a.parquet", {"image": image, "label": [0, 1, 1]})
    command = [f"parquet:{path}", str(tmp_path / "a.beton")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "1 of 3 images are bad" in error and "--on-error skip" in error
    assert f"{path} row 1: holds only the path of its image, and not its bytes, 'x/b.jpg'" in error
    assert main([*command, "--on-error", "skip"]) == 0
    assert open_beton(tmp_path / "a.beton").label.tolist() == [0, 1]
    (bad,) = json.loads((tmp_path / "a.beton.json").read_text())["skipped"]
    assert bad["name"] == f"{path} row 1" and "'x/b.jpg'" in bad["reason"]


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_column_of_paths_is_refused_with_the_way_on(
    tmp_path: Path, on_error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    image = [{"bytes": None, "path": f"x/{name}.jpg"} for name in "ab"]
    path = write(tmp_path / "a.parquet", {"image": image})
    assert main([f"parquet:{path}", str(tmp_path / "a.beton"), "--on-error", on_error]) == 2
    error = capsys.readouterr().err
    assert f"not one of 2 images can be read; {path} row 0: holds only the path" in error
    assert "Train on the files themselves (folder:PATH)" in error
    assert not (tmp_path / "a.beton").exists()


@pytest.mark.parametrize(
    ("labels", "names", "choice", "label", "classes"),
    [
        ([2, 0, None, -1], ("x", "y", "z"), {}, [2, 0, -1, -1], ("x", "y", "z")),
        ([7, 0, 9, 9], (), {}, [7, 0, 9, 9], ()),
        (["b", "a", None, "b"], (), {}, [1, 0, -1, 1], ("a", "b")),
        (pa.array(["b", "a", "c", "b"]).dictionary_encode(), (), {}, [1, 0, 2, 1], ("a", "b", "c")),
        ([True, False, True, True], (), {}, [1, 0, 1, 1], ()),
        ([2, 0, 1, 0], (), {"label_key": "none"}, [-1] * 4, ()),
        (["b", "a", "c", "b"], (), {"classes": ("c", "b")}, [1, 0, 1], ("c", "b")),
        ([2, 0, 1, 0], ("x", "y", "z"), {"classes": ("y", "x")}, [1, 0, 1], ("y", "x")),
    ],
)
def test_labels_of_every_kind(
    tmp_path: Path,
    labels: Any,
    names: tuple[str, ...],
    choice: dict[str, Any],
    label: list[int],
    classes: tuple[str, ...],
) -> None:
    image = cells([encoded(i) for i in range(4)])
    table = opened(
        write(tmp_path / "a.parquet", {"image": image, "label": labels}, names), **choice
    )
    assert (table.label.tolist(), table.classes) == (label, classes)
    assert all(table.source.pixels(row).shape == (10, 12, 3) for row in range(len(table)))


def test_keys_choose_columns(tmp_path: Path) -> None:
    one, two = encoded(100, "PNG"), encoded(200, "PNG")
    columns = {"jpg": [one], "mask": [two], "fine": ["f"], "coarse": ["c"], "id": [1 << 40]}
    path = write(tmp_path / "a.parquet", columns)
    for image, value in [("jpg", 100), ("mask", 200)]:
        table = opened(path, image_key=image, label_key="coarse")
        assert table.source.pixels(0)[0, 0, 0] == value
        assert table.classes == ("c",)
    assert opened(path, image_key="jpg").label.tolist() == [-1]
    named = write(tmp_path / "b.parquet", {"img": cells([one]), "kind": [1]}, "uv", "kind")
    assert (opened(named).label.tolist(), opened(named).classes) == ([1], ("u", "v"))


ONE = {"image": cells([encoded(1)])}


@pytest.mark.parametrize(
    ("columns", "names", "choice", "why"),
    [
        ({"x": [1]}, "", {}, r"no column of images \(bytes\); its columns are x \(int64\)"),
        ({"u": [b"a"], "v": [b"b"]}, "", {}, r"columns u and v: choose with --image-key u"),
        (ONE, "", {"image_key": "foto"}, r"--image-key foto; its columns are image \(struct"),
        (ONE, "", {"label_key": "kind"}, r"--label-key kind; its columns are image"),
        ({**ONE, "label": [0.5]}, "", {"label_key": "label"}, r"whole numbers or strings"),
        ({**ONE, "label": [2]}, "ab", {}, r"row 0: label 2 is no class number of 0 to 1"),
        ({**ONE, "label": [1 << 40]}, "", {}, r"is no class number.*--label-key none"),
        ({**ONE, "label": ["a"]}, "", {"classes": ("b",)}, r"no images of a class 'b'"),
        ({"image": cells([None])[:0]}, "", {}, r"1 file without a row"),
    ],
)
def test_what_is_not_clear_is_refused(
    tmp_path: Path, columns: dict[str, Any], names: str, choice: dict[str, Any], why: str
) -> None:
    path = write(tmp_path / "a.parquet", columns, names)
    with pytest.raises(ValueError, match=why):
        opened(path, **choice)


def test_files_of_other_classes_or_columns_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {**ONE, "label": [0]}, "ab")
    write(tmp_path / "b.parquet", {**ONE, "label": [0]}, "ba")
    write(tmp_path / "c.parquet", ONE)
    for other, why in [("b", "2 and 2 classes have other names"), ("c", "--label-key choose")]:
        with pytest.raises(ValueError, match=rf"{other}\.parquet and .*a\.parquet differ: .*{why}"):
            opened(tmp_path / f"{{a,{other}}}.parquet")


def test_damaged_files_and_missing_ones_are_named(
    both: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (tmp_path / "p" / "0.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-30])
    (tmp_path / "hole.parquet").write_bytes(whole[:100] + bytes(400) + whole[500:])
    for name, why in [
        ("cut.parquet", "cut.parquet is no parquet file, or it is damaged"),
        ("hole.parquet", "hole.parquet is no parquet file, or it is damaged"),
        ("no-{0..2}.parquet", "no-0.parquet"),
        ("folder", "no file below it ends in .parquet"),
    ]:
        assert main([f"parquet:{tmp_path}/{name}", str(tmp_path / "a.beton")]) == 2
        assert why in capsys.readouterr().err
    assert not (tmp_path / "a.beton").exists()


def test_a_folder_is_one_split(tmp_path: Path) -> None:
    for name in ("data/train-00000-of-00002", "data/train-00001-of-00002"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / f"{name}.parquet", ONE)
    assert len(find_parquet(str(tmp_path))) == 2
    write(tmp_path / "data/test-00000-of-00001.parquet", ONE)
    with pytest.raises(ValueError, match=r"2 parts, by their names \(test, train\)") as error:
        find_parquet(str(tmp_path))
    pattern = shlex.split(str(error.value))[-1].removeprefix("parquet:")
    assert [path.name for path in find_parquet(pattern)] == ["test-00000-of-00001.parquet"]


def test_without_pyarrow_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.parquet", ONE)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install 'unmix\[parquet\]'"):
        opened(path)


def test_deep_images_of_all_files_have_one_range(tmp_path: Path) -> None:
    for name, value in [("a", 4000), ("b", 2000)]:
        file = io.BytesIO()
        Image.fromarray(np.full((4, 6), value, np.uint16)).save(file, "TIFF")
        write(tmp_path / f"{name}.parquet", {"image": cells([file.getvalue()])})
    table = opened(tmp_path / "*.parquet")
    assert table.source.rules.int_range == (0, 4095)
    assert [int(table.source.pixels(row)[0, 0, 0]) for row in range(2)] == [249, 125]


def test_row_groups_without_a_wanted_row_are_not_read(
    both: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, columns = parquet_file.read_layout(
        find_parquet(both[1].removeprefix("parquet:")), Choice()
    )
    groups = []
    read = parquet_file._read_group

    def spy(*arguments: Any) -> Any:
        groups.append(arguments[3])
        return read(*arguments)

    monkeypatch.setattr(parquet_file, "_read_group", spy)
    rows = np.array([1, 12, 30, 49])
    found = [row for row, _ in parquet_file.read_cells(layout, columns, rows)]
    assert found == rows.tolist() and groups == [0, 2, 4]


def test_parts_of_several_machines_are_the_whole(
    both: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the machines see the files below other folders."""
    folder, _ = both
    (tmp_path / "mounted").symlink_to(folder)
    where = [folder, folder, tmp_path / "mounted"]
    skip = ["--on-error", "skip", "--keep-jpeg", "--shuffle", "1"]
    assert main([str(folder), str(tmp_path / "whole.beton"), *skip]) == 0
    whole = open_beton(tmp_path / "whole.beton")
    parts, entries = [], []
    for i, place in enumerate(where):
        out = tmp_path / f"part-{i}.beton"
        assert main([str(place), str(out), *skip, "--shard", f"{i}/3"]) == 0
        parts.append(open_beton(out))
        entries.append(json.loads(manifest_path(out).read_text())["shard"])
    assert [len(part) for part in parts] == [
        15,
        16,
        17,
    ]  # of 16, 17 and 17, less a damaged one of two
    pixels = [part.source.pixels(row) for part in parts for row in range(len(part))]
    assert all((one == whole.source.pixels(row)).all() for row, one in enumerate(pixels))
    assert np.concatenate([part.label for part in parts]).tolist() == whole.label.tolist()
    assert {part.classes for part in parts} == {("a", "b")}
    assert [(entry["number"], entry["of"]) for entry in entries] == [(0, 3), (1, 3), (2, 3)]
    assert len({entry["listing"] for entry in entries}) == 1
    out = str(tmp_path / "other.beton")
    for flags in (["--shuffle", "2"], ["--shuffle", "1", "--quality", "80"]):
        command = [str(folder), out, "--on-error", "skip", "--keep-jpeg", *flags]
        assert main([*command, "--shard", "0/3", "--overwrite"]) == 0
        other = json.loads(manifest_path(tmp_path / "other.beton").read_text())["shard"]
        assert other["listing"] != entries[0]["listing"]
    capsys.readouterr()
    assert main([str(folder), out, "--shard", "3/60", "--overwrite"]) == 2
    assert "50 images make 50 parts at most" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["3/3", "0/0", "1", "-1/2", "1/2/3"])
def test_a_part_that_is_none_is_refused(part: str) -> None:
    with pytest.raises(SystemExit):
        main(["photos", "a.beton", f"--shard={part}"])


@pytest.mark.parametrize("spec", ["parquet:a b/{0..3}.parquet", "hf:me/set:train"])
def test_training_data_of_parquet_names_the_writer(spec: str) -> None:
    with pytest.raises(ValueError, match="before training") as error:
        check_spec(spec)
    _, line, _ = str(error.value).splitlines()
    python, script, *words = shlex.split(line)
    assert (python, script) == ("python", "tools/write_ffcv.py")
    arguments = tyro.cli(Arguments, args=words)
    assert (arguments.source, arguments.out, arguments.shuffle) == (spec, "train.beton", 0)


def test_a_folder_of_parquet_files_names_the_writer(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", ONE)
    with pytest.raises(ValueError, match=r"write_ffcv\.py 'parquet:.*/\*\.parquet' train\.beton"):
        scan(tmp_path, tmp_path, "stop")
