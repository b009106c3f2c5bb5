"""Tar shards: which member is the image, what is named when none is, and what stays out.

Their rows are read in place, and are those of a .beton with the same images.
"""

import bz2
import gzip
import io
import lzma
import os
import pickle
import resource
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from http_store import HttpStore, serving, skip_unless_local
from numpy.typing import NDArray
from PIL import Image
from shard_cases import Members, encoded, photo, write_shard

from pipelines.beton.convert import cached_beton, content_key
from pipelines.beton.format import open_beton
from pipelines.datasets import check_spec, default_val, open_data
from pipelines.decoders import Crops
from pipelines.decoders.build import build_decoder, choose_loader
from pipelines.decoders.pil import crops_with_pil
from pipelines.normalization import pixel_statistics
from pipelines.public import LoaderOptions, build_loader
from pipelines.public import open_data as open_public
from pipelines.remote.connect import Retry
from pipelines.remote.errors import RemoteError
from pipelines.remote.file import RemoteOptions
from pipelines.sources import shard_index
from pipelines.sources import shards as shards_module
from pipelines.sources.image_file import RULES, ImageRules
from pipelines.sources.overlap import rows_in
from pipelines.sources.shard_index import index_shard
from pipelines.sources.shard_members import USUAL
from pipelines.sources.shards import open_shards
from pipelines.system import cache
from pipelines.system.stored_file import LocalFile, StoredFile
from pipelines.system.stored_reader import StoredReader, open_reader
from tools.config.cli import differences
from tools.config.config import Config
from tools.diagnostics.data import check_data
from tools.engine.data import open_data_of
from tools.write_ffcv import main

CPU = torch.device("cpu")
FAST = Retry(attempts=3, first_wait=0.002, longest_wait=0.01, silence=5.0, total=9.0)
GREY_LEVELS = 2.0
"""How far a crop may be from PIL's on average, as in test_decoders.py."""


def shard(folder: Path, members: Members) -> str:
    return write_shard(folder / "s.tar", members)


def test_endings_in_any_case_and_format(tmp_path: Path) -> None:
    kinds = {"a.JPG": "JPEG", "b.Png": "PNG", "c.bmp": "BMP", "d.tiff": "TIFF", "d.CLS": None}
    path = shard(tmp_path, {n: encoded(9, kind) if kind else b"7" for n, kind in kinds.items()})
    table = open_shards(path, "stop")
    assert table.height.tolist() == [4] * 4
    assert table.label.tolist() == [-1, -1, -1, 7]


def test_keys_that_are_no_ending_are_named(tmp_path: Path) -> None:
    members = {"a.input.png": encoded(1), "a.target.png": encoded(2), "a.json": b"{}"}
    path = shard(tmp_path, members)
    with pytest.raises(
        ValueError, match=r"input\.png \(1\), target\.png \(1\), json \(1\)"
    ) as error:
        open_shards(path, "stop")
    assert "--image-key input.png" in str(error.value)
    for key, value in [("input.png", 1), ("INPUT", 1), ("target", 2)]:
        table = open_shards(path, "stop", key)
        assert table.source.pixels(0)[0, 0, 0] == value
    with pytest.raises(ValueError, match=r"no images under --image-key depth"):
        open_shards(path, "stop", "depth")


def test_two_images_of_a_sample_are_refused(tmp_path: Path) -> None:
    path = shard(tmp_path, {"a.jpg": encoded(1, "JPEG"), "a.png": encoded(2)})
    with pytest.raises(ValueError, match=r"two images, a\.jpg and a\.png: .*--image-key"):
        open_shards(path, "stop")
    assert open_shards(path, "stop", "png").source.pixels(0)[0, 0, 0] == 2


def test_deep_members_have_one_range(tmp_path: Path) -> None:
    members = {}
    for name, value in [("a", 4000), ("b", 2000)]:
        file = io.BytesIO()
        Image.fromarray(np.full((4, 6), value, np.uint16)).save(file, "TIFF")
        members[f"{name}.tiff"] = file.getvalue()
    table = open_shards(shard(tmp_path, members), "stop")
    assert table.source.rules.int_range == (0, 4095)
    assert [int(table.source.pixels(row)[0, 0, 0]) for row in range(2)] == [249, 125]


def test_the_writer_takes_a_key_and_overwrites_only_when_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shard(tmp_path, {"a.input.png": encoded(5), "a.cls": b"3"})
    out = tmp_path / "a.beton"
    assert main([f"wds:{path}", str(out)]) == 2
    assert "--image-key input.png" in capsys.readouterr().err
    command = [f"wds:{path}", str(out), "--image-key", "input"]
    assert main(command) == 0
    before = out.read_bytes()
    assert main(command) == 2
    assert f"{out} exists: --overwrite replaces it" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main([*command, "--overwrite"]) == 0
    table = open_beton(out)
    assert table.label.tolist() == [3]
    assert table.source.pixels(0)[0, 0, 0] == 5
    with pytest.raises(SystemExit):
        main(["photos", str(out), "--image-key", "jpg"])


def test_the_writer_composites_on_the_background(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGBA", (6, 4), (9, 9, 9, 0)).save(tmp_path / "in" / "a.png")
    for color, value in [("white", 255), ("black", 0)]:
        out = tmp_path / f"{color}.beton"
        assert main([f"folder:{tmp_path}/in", str(out), "--background", color]) == 0
        assert (open_beton(out).source.pixels(0) == value).all()
    assert " 0.00 GB" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(tmp_path / "in"), str(tmp_path / "x.beton"), "--background", "blu"])


# --- members -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "keys", "labels", "classes"),
    [
        ({"a.image.jpg": b"", "a.cls": b"5", "b.IMG.JPG": b""}, {}, [5, -1], ()),
        ({"a.json": b'{"label": 3}', "a.jpg": b"", "b.jpg": b""}, {}, [3, -1], ()),
        ({"a.jpg": b"", "b.jpg": b"", "b.cls": b"1\n", "a.cls": b" 2 "}, {}, [2, 1], ()),
        ({"a.json": b'{"label": 3}', "a.cls": b"1", "a.jpg": b""}, {}, [1], ()),
        ({"a.cls": b"1", "a.json": b'{"label": 3}', "a.jpg": b""}, {}, [1], ()),
        ({"a.jpg": b"", "a.json": b'{"class_id": "7"}'}, {}, [7], ()),
        (
            {"a.jpg": b"", "a.json": b'{"class": "dog"}', "b.jpg": b"", "b.json": b'{"y": "cat"}'},
            *({}, [1, 0], ("cat", "dog")),
        ),
        ({"a.jpg": b"", "a.json": b'{"label": null, "y": 2.0}'}, {}, [-1], ()),
        ({"a.jpg": b"", "a.json": b'{"label": [0, 1]}'}, {}, [-1], ()),
        ({"a.jpg": b"", "a.json": b"no json"}, {}, [-1], ()),
        (
            {"a.jpg": b"", "a.cls": b"1", "a.json": b'{"fine": 4, "label": 3}'},
            *({"label_key": "fine"}, [4], ()),
        ),
        (
            {"a.jpg": b"", "a.txt": b"dog", "b.jpg": b"", "b.TXT": b"a cat\n"},
            *({"label_key": "txt"}, [1, 0], ("a cat", "dog")),
        ),
        ({"a/x.jpg": b"", "b/x.jpg": b"", "b/x.cls": b"4", "a/x.cls": b"3"}, {}, [3, 4], ()),
        ({"v1.2/x.jpg": b"", "./v1.2/x.jpeg": b"", "v1.2/x.cls": b"6"}, {}, [6, -1], ()),
        (
            {"__info__.jpg/x": b"", "__meta__/a.jpg": b"", "a.jpg": b"", "._a.jpg": b""},
            {},
            [-1],
            (),
        ),
        ({".git/a.jpg": b"", "__MACOSX/b.jpg": b"", "./c.jpg": b""}, {}, [-1], ()),
        ({"ä" * 120 + "/b.jpg": b"", "c.jpg": b""}, {}, [-1, -1], ()),
    ],
)
@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_the_members_of_a_sample(
    tmp_path: Path,
    members: dict[str, bytes],
    keys: dict[str, str],
    labels: list[int],
    classes: tuple[str, ...],
    kind: int,
) -> None:
    """Members of a sample may be apart, in folders, with long names; empty ones are images here."""
    filled = {name: data or encoded(len(name)) for name, data in members.items()}
    path = write_shard(tmp_path / "s.tar", filled, kind)
    table = open_shards(path, "stop", **keys)
    assert (table.label.tolist(), table.classes) == (labels, classes)
    source = table.source
    for row in range(len(table)):
        member = source.name(row).removeprefix(f"{path}:")
        assert source.encoded(row).tobytes() == filled[member]


def linked(folder: Path) -> str:
    """A second name of an image, which is no file."""
    with tarfile.open(folder / "s.tar", "w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.type, info.linkname = tarfile.LNKTYPE, "b.jpg"
        tar.addfile(info)
    return str(folder / "s.tar")


def with_holes(folder: Path) -> str:
    info = tarfile.TarInfo("a.jpg")
    info.size = 0
    info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "9", "GNU.sparse.name": "a.jpg"}
    with tarfile.open(folder / "s.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info)
    return str(folder / "s.tar")


def packed(pack: Callable[[bytes], bytes]) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        path = Path(shard(folder, {"a.jpg": encoded(1)}))
        path.write_bytes(pack(path.read_bytes()))
        return str(path)

    return make


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (packed(gzip.compress), r"s\.tar is compressed with gzip, .*: gunzip it"),
        (packed(bz2.compress), r"s\.tar is compressed with bzip2, .*: bunzip2 it"),
        (packed(lzma.compress), r"s\.tar is compressed with xz, .*: unxz it"),
        (packed(lambda data: b"\x28\xb5\x2f\xfd" + data), "compressed with zstd, .*: unzstd it"),
        (packed(lambda data: b""), r"s\.tar is an empty file"),
        (packed(lambda data: b"<html>" * 99), r"s\.tar is no tar file, or cut off"),
        (packed(lambda data: data[:700]), r"s\.tar is no tar file, or cut off"),
        (packed(lambda data: data[:1024]), r"s\.tar is cut off at byte 1024"),
        (packed(lambda data: data + data), r"goes on after its end at byte 1024, .*--concatenate"),
        (linked, r"holds no images; its members have the keys jpg \(no file, but a link\) \(1\)"),
        (with_holes, r"a\.jpg is stored with holes, .* without tar's --sparse"),
        (
            lambda folder: shard(folder, [("a.jpg", encoded(1))] * 2),
            r"holds a\.jpg twice: pack the shard again",
        ),
        (
            lambda folder: shard(folder, {"a.jpg": encoded(1), "a.cls": b"99999999999"}),
            r"s\.tar:a\.cls is no class number",
        ),
        (
            lambda folder: shard(
                folder,
                {"a.jpg": encoded(1), "a.json": b'{"y": 1}', "b.json": b'{"y": "dog"}'}
                | {"b.jpg": encoded(1)},
            ),
            r"classes with names \('dog'\) and with numbers \(1\): --label-key",
        ),
    ],
)
def test_what_cannot_be_read_says_why(
    tmp_path: Path, make: Callable[[Path], str], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        open_shards(make(tmp_path), "stop")


def test_a_class_key_that_is_nowhere_names_the_keys(tmp_path: Path) -> None:
    path = shard(tmp_path, {"a.jpg": encoded(1), "a.json": b'{"text": "x", "id": 3}'})
    with pytest.raises(ValueError, match=r"keys jpg \(1\), json \(1\), .*fields text \(1\), id"):
        open_shards(path, "stop", label_key="class")
    with pytest.raises(ValueError, match=r"a\.json is no class number or name: '-5'"):
        open_shards(
            write_shard(tmp_path / "t.tar", {"a.jpg": encoded(1), "a.json": b'{"id": -5}'}),
            *("stop", None),
            label_key="id",
        )


def test_bands_and_damage_are_refused_by_name(tmp_path: Path) -> None:
    members = {"a.png": encoded(1), "b.png": b"no image", "c.png": encoded(2)}
    path = shard(tmp_path, members)
    with pytest.raises(ValueError, match=r"s\.tar:b\.png: not an image.*\n.*--on-bad-image"):
        open_shards(path, "stop")
    table = open_shards(path, "replace")
    assert [table.source.name(row)[-5:] for row in range(2)] == ["a.png", "c.png"]
    assert table.source.pixels(1)[0, 0].tolist() == [2, 0, 0]
    with pytest.raises(ValueError, match=r"3 bands, where --in-chans 4 needs 4"):
        open_data(f"wds:{path}", tmp_path, rules=ImageRules(channels=4))
    report = check_data(f"wds:{path}", deep=False)
    assert [line for line in report.problems if "b.png" in line]
    assert any("--on-bad-image replace" in line for line in report.advice)


# --- the table in the cache ----------------------------------------------------------------


def no_pass(*_: object) -> None:
    raise AssertionError("a tar file was opened")


def test_shards_are_indexed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "hold", lambda path: None)  # as of a process that has ended
    for number in range(2):
        rows = {f"{number}{row}.jpg": photo(row, 20 + row) for row in range(3)}
        named = {
            name.replace("jpg", "json"): b'{"label": "c%s"}' % name[:2].encode() for name in rows
        }
        write_shard(tmp_path / f"s-{number}.tar", rows | named)
    pattern = f"{tmp_path}/s-{{0..1}}.tar"
    first = open_shards(pattern, "stop")
    with monkeypatch.context() as patch:
        patch.setattr(shards_module, "index_shard", no_pass)
        patch.setattr(tarfile, "open", no_pass)
        again = open_shards(pattern, "stop")
    for table in (first, again):
        assert table.classes == ("c00", "c01", "c02", "c10", "c11", "c12")
        assert table.label.tolist() == list(range(6)) and table.label.flags.writeable
        assert table.height.tolist() == [20, 21, 22] * 2
        assert table.source.name(4) == f"{tmp_path}/s-1.tar:11.jpg"
        assert table.source.encoded(4).tobytes() == photo(1, 21)
    assert isinstance(again.source.members.offset.base, np.memmap)  # shared by the processes
    with pytest.raises(ValueError, match="no images under --image-key jp"):
        open_shards(pattern, "stop", "jp")
    write_shard(tmp_path / "s-1.tar", {"x.jpg": photo(1)})
    assert len(open_shards(pattern, "stop")) == 4
    tables = list((tmp_path / "cache/tables").iterdir())
    assert len(tables) == 1  # the one of the changed shard replaces the other
    for file in tables:
        for column in file.glob("*.npy"):
            column.write_bytes(b"damaged")
    assert len(open_shards(pattern, "stop")) == 4


def test_worker_processes_index_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        write_shard(tmp_path / f"s-{number}.tar", {f"{number}.jpg": photo(number)})
    one = open_shards(f"{tmp_path}/s-*.tar", "stop")
    monkeypatch.setattr(shards_module, "MANY_BYTES", 0)
    other = open_shards(f"{tmp_path}/s-{{0,1}}.tar", "stop")
    assert [other.source.name(row) for row in range(2)] == [
        one.source.name(row) for row in range(2)
    ]
    write_shard(tmp_path / "s-1.tar", {"1.jpg": photo(1), "1.cls": b"dog"})
    with pytest.raises(ValueError, match=r"s-1\.tar:1\.cls is no class number"):
        open_shards(f"{tmp_path}/s-*.tar", "stop")


def test_a_worker_gets_the_members_of_its_rows_only(tmp_path: Path) -> None:
    for number in range(3):
        rows = {f"{number}-{row:02}.jpg": photo(row) for row in range(20)}
        write_shard(tmp_path / f"s-{number}.tar", rows)
    table = open_shards(f"{tmp_path}/s-*.tar", "stop")
    assert table.source.encoded(3).tobytes() == photo(3)  # a shard is mapped now
    part = table.take(np.array([59, 1, 45]))
    sent = pickle.loads(pickle.dumps(part))
    assert len(sent.source.members) == 3 and len(sent.source.tars) == 2
    for row in range(3):
        assert sent.source.name(row) == part.source.name(row)
        assert (sent.source.encoded(row) == part.source.encoded(row)).all()
    assert part.source.file_order().tolist() == [1, 2, 0]


# --- the same laws as a .beton -------------------------------------------------------------


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Shards, and a .beton that holds the bytes of the same JPEGs in the same order."""
    folder = tmp_path_factory.mktemp("twins")
    for number in range(2):
        rows: dict[str, bytes] = {}
        for row in range(12):
            seed, gray = 12 * number + row, {"progressive": True} if row % 3 else {}
            rows[f"{seed:03}.jpg"] = photo(seed, 30 + row, 44 - row, **gray)
            rows[f"{seed:03}.cls"] = str(row % 2).encode()
        write_shard(folder / f"train-{number}.tar", rows)
    spec = f"wds:{folder}/train-{{0..1}}.tar"
    out = str(folder / "a.beton")
    assert main([spec, out, "--keep-jpeg", "--max-size", "0"]) == 0
    return spec, out


@pytest.mark.parametrize("order", ["random", "blocks"])
def test_ffcv_reads_the_batches_of_a_beton(twins: tuple[str, str], order: str) -> None:
    pytest.importorskip("ffcv")
    batches = []
    for spec in twins:
        data = open_public(spec)
        options = LoaderOptions("ffcv", workers=2)
        loader = build_loader(
            data, "simclr", 8, size=16, order=order, device="cpu", options=options
        )
        batches.append([batch for _ in range(2) for batch in loader])
    assert len(batches[0]) == len(batches[1]) == 6
    for ours, theirs in zip(*batches, strict=True):
        assert (ours.index == theirs.index).all() and (ours.label == theirs.label).all()
        assert all((a == b).all() for a, b in zip(ours.views, theirs.views, strict=True))


@pytest.mark.parametrize("loader", ["dali", "ffcv"])
def test_the_pixels_are_those_of_pil(tmp_path: Path, loader: str) -> None:
    """An upright JPEG, one that EXIF turns by 180 degrees, CMYK, and other formats."""
    pytest.importorskip({"dali": "nvidia.dali", "ffcv": "ffcv"}[loader])
    exif, cmyk, gray = Image.Exif(), io.BytesIO(), io.BytesIO()
    exif[0x0112] = 3
    image = Image.open(io.BytesIO(photo(5)))
    image.convert("CMYK").save(cmyk, "JPEG")
    image.convert("L").save(gray, "JPEG")
    members = {
        "0.jpg": photo(0),
        "1.jpg": photo(1, exif=exif),
        "2.jpg": cmyk.getvalue(),
        "3.jpg": gray.getvalue(),
        "4.png": encoded(9),
    }
    table = open_data(f"wds:{shard(tmp_path, members)}", tmp_path)
    decoder = build_decoder(
        *(loader, table), interpolation="antialias", workers=1, device=CPU, on_bad="stop"
    )
    rows = np.arange(len(table))
    boxes = np.stack([rows * 0, rows * 0, table.height, table.width], axis=1).astype(np.int32)
    (crops,) = decoder(rows, [Crops(16, rows, boxes)])
    decoder.close()
    for row in rows.tolist():
        (want,) = crops_with_pil(table.source.pixels(row), boxes[row][None], [16], "antialias")
        assert np.abs(crops[row].numpy().astype(int) - want).mean() <= GREY_LEVELS
    assert decoder.replaced == 0


def test_the_loader_follows_the_members(twins: tuple[str, str], tmp_path: Path) -> None:
    table = open_data(twins[0], tmp_path)
    assert cached_beton(table, "x") is table
    pytest.importorskip("ffcv")
    assert choose_loader(table, CPU, 1, data_is_beton=True)[0] == "ffcv"
    assert choose_loader(table, torch.device("cuda"), 1, data_is_beton=True)[0] == "dali"
    beton = open_data(twins[1], tmp_path)
    assert choose_loader(beton, torch.device("cuda"), 1, data_is_beton=True)[0] == "ffcv"
    sized = {f"{row}.png": encoded(row) for row in range(3)} | {"3.jpg": photo(1)}
    png = open_shards(shard(tmp_path, sized), "stop")
    assert choose_loader(png, CPU, 1, data_is_beton=True)[0] == "dali"


def test_classes_without_names_cannot_be_chosen(twins: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("dog\n")
    for spec in twins:
        with pytest.raises(ValueError, match=r"no images of a class 'dog'; its classes have no"):
            open_data(spec, tmp_path, classes_file=tmp_path / "classes.txt")


def test_a_run_reads_the_keys_of_its_flags(tmp_path: Path) -> None:
    """Training and validation shards have the run's keys, and classes are matched by name."""
    for split, names in (("train", "bac"), ("val", "ca")):
        members: dict[str, bytes] = {}
        for row, name in enumerate(names):
            members |= {f"{row}.input.png": encoded(row), f"{row}.target.png": encoded(9)}
            members[f"{row}.json"] = b'{"label": 7, "fine": "%s"}' % name.encode()
        write_shard(tmp_path / f"{split}-0.tar", members)
    spec = f"wds:{tmp_path}/train-{{0..0}}.tar"
    config = Config(data=spec, image_key="INPUT", label_key="fine")
    data = open_data_of(config, Accelerator(cpu=True))
    assert data.train.classes == ("a", "b", "c") and data.train.label.tolist() == [1, 0, 2]
    assert data.val.label.tolist() == [2, 0]
    assert [data.train.source.pixels(row)[0, 0, 0] for row in range(3)] == [0, 1, 2]
    assert {"--image-key", "--label-key"} <= {
        line.partition(":")[0] for line in differences(config, Config(data=spec))
    }


def test_rows_are_known_by_their_place(twins: tuple[str, str], tmp_path: Path) -> None:
    """Subsets, statistics and the overlap of two tables."""
    table = open_data(twins[0], tmp_path)
    one, other = table.take(np.array([3, 20])), table.take(np.array([20, 7, 3]))
    assert rows_in(one, other).tolist() == [2, 0]
    assert rows_in(one, open_shards(shard(tmp_path, {"a.png": encoded(1)}), "stop")).tolist() == [
        *(-1, -1)
    ]
    assert len({content_key(part) for part in (table, one, other)}) == 3
    assert content_key(table) == content_key(open_data(twins[0], tmp_path))
    measured = [pixel_statistics(open_data(spec, tmp_path)) for spec in twins]
    assert measured[0] == measured[1]


@pytest.mark.parametrize(
    ("train", "others", "val"),
    [
        ("train-{000..146}.tar", ["val-000.tar", "val-001.tar"], "val-*.tar"),
        ("train-{000..146}.tar", ["validation-0.tar"], "validation-*.tar"),
        ("train-*.tar", ["test-0.tar"], "test-*.tar"),
        ("training/{0..9}.tar", ["val/0.tar"], "val/*.tar"),
        ("train/{0..9}.tar", ["valid/0.tar"], "valid/*.tar"),
        ("train-{a,b}.tar", ["val-a.tar", "val-b.tar"], "val-{a,b}.tar"),
        ("train-{a,b}.tar", ["val-a.tar"], None),
        ("images-{0..3}.tar", ["val-0.tar"], None),
    ],
)
def test_validation_shards_are_found(
    tmp_path: Path, train: str, others: list[str], val: str | None
) -> None:
    for name in others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = default_val(f"wds:{tmp_path}/{train}")
    assert found == (None if val is None else f"wds:{tmp_path}/{val}")
    if found is not None:
        check_spec(found)


def test_more_shards_than_files_may_be_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A memory map keeps a file open: the limit of 1,024, here 100, is raised."""
    for number in range(150):
        write_shard(tmp_path / f"{number:03}.tar", {f"{number}.png": encoded(number)})
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 100, before[1]))
        table = open_shards(f"{tmp_path}/*.tar", "stop")
        for row in range(150):
            assert table.source.pixels(row)[0, 0, 0] == row
        monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 120))
        with pytest.raises(ValueError, match=r"takes 150 open files, .* may have 120: .*ulimit"):
            open_shards(f"{tmp_path}/*.tar", "stop")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# --- reading in sequence -------------------------------------------------------------------


class Fetched(StoredFile):
    """A file that is not local, and counts how often each byte is requested."""

    def __init__(self, path: Path) -> None:
        self.file = LocalFile(path)
        self.asked = np.zeros(path.stat().st_size, np.int64)
        self.waited = np.zeros(len(self.asked), np.int64)
        self.before: list[bool] = []
        """Whether each piece that was read had been requested."""

    path = property(lambda self: self.file.path)
    title = property(lambda self: "s3://bucket/s.tar")
    bytes = property(lambda self: self.file.bytes)

    def read(self, begin: int, size: int) -> NDArray[np.uint8]:
        self.before.append(bool(self.asked[begin : begin + size].all()))
        return self.file.read(begin, size)

    def will_need(self, ranges: NDArray[np.int64]) -> None:
        for begin, end in ranges.tolist():
            self.asked[begin:end] += 1

    def held(self, ranges: NDArray[np.int64]) -> AbstractContextManager[None]:
        for begin, end in ranges.tolist():
            self.waited[begin:end] += 1
        return nullcontext()

    def forget(self, ranges: NDArray[np.int64]) -> None:
        raise AssertionError


def test_the_pass_requests_each_byte_once(tmp_path: Path) -> None:
    members = [(f"{row}.jpg", photo(row)) for row in range(30)]
    file = Fetched(Path(shard(tmp_path, members)))
    with tarfile.open(fileobj=open_reader(file), mode="r:") as tar:
        assert [tar.extractfile(member).read() for member in tar] == [data for _, data in members]
    assert (file.asked == 1).all() and all(file.before)
    file = Fetched(file.path)
    assert len(index_shard(file, USUAL, RULES).size) == 30
    assert (file.asked == 1).all() and (file.waited == 1).all() and all(file.before)
    file = Fetched(file.path)
    reader = io.BufferedReader(StoredReader(file, len(file.asked), 4096), 512)
    assert reader.read() == file.path.read_bytes()
    assert (file.asked == 1).all() and all(file.before)
    assert reader.seek(-9, io.SEEK_END) == len(file.asked) - 9
    assert reader.read(99) == file.path.read_bytes()[-9:]


def test_a_store_that_fails_makes_no_damaged_image(tmp_path: Path) -> None:
    class Failing(Fetched):
        def read(self, begin: int, size: int) -> NDArray[np.uint8]:
            raise RemoteError("the store fails")

    file = Failing(Path(shard(tmp_path, [("0.jpg", photo(0)), ("1.jpg", photo(1))])))
    with pytest.raises(RemoteError, match="the store fails"):
        shard_index._measure(io.BufferedReader(StoredReader(file, len(file.asked)), 16), 9, RULES)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[HttpStore]:
    """Two shards of 1 MiB on a web server."""
    pytest.importorskip("obstore", reason="remote files need obstore")
    shards = {}
    for number in range(2):
        noise = np.random.default_rng(number).bytes(1 << 17)
        rows = {f"{number}{row}.jpg": photo(8 * number + row) + noise for row in range(8)}
        rows |= {f"{number}{row}.cls": str(row % 2).encode() for row in range(8)}
        name = f"train-{number}.tar"
        shards[name] = Path(write_shard(tmp_path / name, rows)).read_bytes()
    skip_unless_local(tmp_path)
    with serving(shards) as server:
        yield server


def test_the_pass_over_remote_shards_fills_the_cache(store: HttpStore, tmp_path: Path) -> None:
    pattern = f"{store.url}/train-{{0..1}}.tar"
    options = RemoteOptions(tmp_path / "one", retry=FAST)
    local = open_shards(f"{tmp_path}/train-{{0..1}}.tar", "stop")
    table = open_shards(pattern, "stop", remote=options)

    def pieces() -> list[tuple[str, int, int]]:
        found = [(r.path, *r.range) for r in store.requests if r.range and r.status == 206]
        return sorted(piece for piece in found if piece[2] > 1)  # one byte shows the size

    def covered() -> dict[str, int]:
        sizes = Counter[str]()
        for name, begin, end in pieces():
            sizes[name] += end - begin
        return dict(sizes)

    assert covered() == {name: len(data) for name, data in store.objects.items()}
    assert table.label.tolist() == local.label.tolist()
    for row in range(16):
        assert (table.source.encoded(row) == local.source.encoded(row)).all()
    assert table.source.name(9) == f"{store.url}/train-1.tar:11.jpg"
    with table.source.held(np.arange(16)):
        assert (table.source.files[1].bytes == local.source.files[1].bytes).all()
    assert covered() == {name: len(data) for name, data in store.objects.items()}
    again = open_shards(pattern, "stop", remote=replace(options, cache_dir=tmp_path / "two"))
    store.requests.clear()
    assert (again.source.encoded(3) == local.source.encoded(3)).all()
    assert 1 << 17 < sum(covered().values()) <= 2 << 18
    store.objects["train-1.tar"] = store.objects["train-0.tar"]
    assert open_shards(pattern, "stop", remote=options).source.name(9).endswith(":01.jpg")


def test_a_cache_smaller_than_the_shards(store: HttpStore, tmp_path: Path) -> None:
    """The pass drops what it has passed, and rows are fetched when they are needed."""
    options = RemoteOptions(tmp_path / "small", cache_size=3 << 18, retry=FAST)
    table = open_shards(f"{store.url}/train-{{0..1}}.tar", "stop", remote=options)
    local = open_shards(f"{tmp_path}/train-{{0..1}}.tar", "stop")
    for row in (0, 15, 7):
        with table.source.held(np.array([row])):
            assert (table.source.encoded(row) == local.source.encoded(row)).all()


def test_a_missing_remote_shard_is_named(store: HttpStore, tmp_path: Path) -> None:
    options = RemoteOptions(tmp_path / "one", retry=FAST)
    with pytest.raises(ValueError, match=r"train-2\.tar"):
        open_shards(f"{store.url}/train-{{1..2}}.tar", "stop", remote=options)
    with pytest.raises(ValueError, match=r"name the files or URLs themselves"):
        check_spec("wds:pipe:curl x.tar")
    check_spec(f"wds:{store.url}/train-{{1..2}}.tar")  # asks nobody
    assert default_val(f"wds:{store.url}/train-{{1..2}}.tar") is None
