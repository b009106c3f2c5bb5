"""FFCV files: stock FFCV reads ours, we read those of stock FFCV, damage is a ValueError."""

import importlib.util
import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from beton_cases import make_samples, picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.beton import checks, columns
from pipelines.beton.format import ALLOCATION, HEADER, Sample, manifest_path, open_beton
from pipelines.beton.writer import write_beton
from pipelines.sources.beton import Beton

PAGE = 1 << 21
needs_ffcv = pytest.mark.skipif(
    importlib.util.find_spec("ffcv") is None, reason="FFCV is not installed"
)


def assert_same(path: Path, samples: list[Sample]) -> None:
    table = open_beton(path)
    assert len(table) == len(samples)
    assert isinstance(table.source, Beton)
    for row, sample in enumerate(samples):
        data = table.source.encoded(row)
        stored = table.source.pixels(row).tobytes() if data is None else data.tobytes()
        assert stored == sample.data
        assert (data is not None) == sample.jpg
        assert (table.height[row], table.width[row]) == (sample.height, sample.width)
        assert table.label[row] == sample.label


def test_what_is_written_is_read(tmp_path: Path) -> None:
    samples = make_samples(7)
    assert write_beton(tmp_path / "a.beton", samples, 7, PAGE) == 7
    assert_same(tmp_path / "a.beton", samples)
    assert os.listdir(tmp_path) == ["a.beton"]


def test_fewer_rows_than_announced(tmp_path: Path) -> None:
    samples = make_samples(5)
    assert write_beton(tmp_path / "a.beton", samples, 5000, PAGE) == 5
    assert_same(tmp_path / "a.beton", samples)


def test_no_row_crosses_a_page(tmp_path: Path) -> None:
    samples = make_samples(9, 512, 700)
    write_beton(tmp_path / "a.beton", samples, 9, PAGE)
    assert_same(tmp_path / "a.beton", samples)
    source = open_beton(tmp_path / "a.beton").source
    assert isinstance(source, Beton)
    assert (source.offset // PAGE == (source.offset + source.size - 1) // PAGE).all()
    assert (source.offset // PAGE >= 1).all()


@needs_ffcv
@pytest.mark.parametrize("capacity", [11, 100_000])
def test_stock_reader_agrees(tmp_path: Path, capacity: int) -> None:
    from ffcv.reader import Reader

    samples = make_samples(11, 300, 400)
    path = tmp_path / "a.beton"
    write_beton(path, samples, capacity, PAGE)
    stock = Reader(str(path))
    ours = open_beton(path)
    assert isinstance(ours.source, Beton)
    assert stock.field_names == ["image", "label"]
    assert (stock.metadata["f0"]["data_ptr"] == ours.source.offset).all()
    assert (stock.metadata["f0"]["height"] == ours.height).all()
    assert (stock.metadata["f1"] == ours.label).all()
    assert (stock.alloc_table["size"] == ours.source.size).all()


@needs_ffcv
@pytest.mark.parametrize("os_cache", [True, False])
def test_stock_loader_decodes_the_same_pixels(tmp_path: Path, os_cache: bool) -> None:
    from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption

    samples = make_samples(24, 256, 320)  # about two pages
    path = tmp_path / "a.beton"
    write_beton(path, samples, 100, PAGE)
    loader = Loader(
        str(path),
        batch_size=6,
        num_workers=1,
        os_cache=os_cache,
        order=OrderOption.SEQUENTIAL,
        pipelines={"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]},
    )
    source, row = open_beton(path).source, 0
    for images, labels in loader:
        for image, label in zip(images, labels, strict=True):
            want = source.pixels(row).astype(int)
            limit = 0 if not samples[row].jpg else 3  # libffcv uses the fast inverse transform
            assert np.abs(np.asarray(image).astype(int) - want).mean() <= limit
            assert label.item() == samples[row].label
            row += 1
    assert row == 24


@needs_ffcv
def test_we_read_what_stock_writes(tmp_path: Path) -> None:
    from ffcv.fields import FloatField, IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    images = [picture(row, 10 + row, 12) for row in range(6)]
    data = [(0.5, x, row + 3) for row, x in enumerate(images)]
    fields = {"weight": FloatField(), "picture": RGBImageField(), "class": IntField()}
    path = tmp_path / "stock.beton"
    DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(data)
    table = open_beton(path)
    assert table.label.tolist() == [3, 4, 5, 6, 7, 8]
    for row, image in enumerate(images):
        assert (table.source.pixels(row) == image).all()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("beton") / "whole.beton"
    write_beton(path, make_samples(6), 6, PAGE)
    return path.with_name("damaged.beton"), path.read_bytes()


def open_damaged(path: Path, data: bytes) -> None:
    """Either a ValueError that names the file, or a table whose every row can be touched."""
    path.write_bytes(data)
    try:
        table = open_beton(path)
    except ValueError as error:
        assert str(path) in str(error)
        return
    assert isinstance(table.source, Beton)
    for row in range(len(table)):
        stored = table.source.encoded(row)
        size = table.source.pixels(row).size if stored is None else len(stored)
        assert size == table.source.size[row]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(share=st.floats(0, 1))
def test_cut_files_are_refused(whole: tuple[Path, bytes], share: float) -> None:
    path, data = whole
    cut = int(share * (len(data) - 1))
    path.write_bytes(data[:cut])
    with pytest.raises(ValueError, match=r"damaged\.beton"):
        open_beton(path)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(choice=st.data())
def test_flipped_bytes_never_crash(whole: tuple[Path, bytes], choice: st.DataObject) -> None:
    path, data = whole
    metadata = range(0, HEADER.itemsize + 2 * 1041 + 6 * 24)
    allocations = range(len(data) - 6 * ALLOCATION.itemsize, len(data))
    places = st.sampled_from([*range(40), *metadata, *allocations])
    damaged = bytearray(data)
    for _ in range(choice.draw(st.integers(1, 4))):
        damaged[choice.draw(places)] = choice.draw(st.integers(0, 255))
    open_damaged(path, bytes(damaged))


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=4000))
def test_noise_is_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.beton"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"noise\.beton"):
        open_beton(path)


@pytest.mark.parametrize("text", ["not json", "[" * 100_000, "[1]", '{"bytes": 1}', "null"])
def test_a_damaged_manifest_is_ignored(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.beton"
    write_beton(path, make_samples(3), 3, PAGE)
    manifest_path(path).write_text(text)
    assert open_beton(path).classes == ()


def test_classes_come_from_a_fitting_manifest(tmp_path: Path) -> None:
    path = tmp_path / "a.beton"
    write_beton(path, make_samples(3), 3, PAGE)
    for classes, want in [(["a", "b", "c"], ("a", "b", "c")), (["a"], ()), ([1, 2, 3], ())]:
        text = json.dumps({"bytes": path.stat().st_size, "classes": classes})
        manifest_path(path).write_text(text)
        assert open_beton(path).classes == want


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.beton"
    samples = make_samples(2)
    write_beton(path, samples, 2, PAGE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, hard))
    try:
        with pytest.raises(OSError, match="no space left"):
            write_beton(path, make_samples(9, 512, 700), 9, PAGE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_same(path, samples)
    assert os.listdir(tmp_path) == ["a.beton"]


@pytest.mark.parametrize(
    ("sample", "why"),
    [
        (Sample(b"x", 1, 1, False, 0), "raw data"),
        (Sample(b"", 1, 1, True, 0), "do not fit"),
        (Sample(b"x", 70_000, 1, True, 0), "over 65535"),
        (Sample(bytes(PAGE + 1), 9, 9, True, 0), "do not fit"),
    ],
)
def test_impossible_rows_are_refused(tmp_path: Path, sample: Sample, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        write_beton(tmp_path / "a.beton", [sample], 1, PAGE)
    with pytest.raises(ValueError, match="not one image"):
        write_beton(tmp_path / "a.beton", [], 1, PAGE)
    with pytest.raises(ValueError, match="power of two"):
        write_beton(tmp_path / "a.beton", make_samples(1), 1, PAGE + 1)
    assert os.listdir(tmp_path) == []


def opened(path: Path) -> dict[str, list[int]] | str:
    """All that a table says of its rows, or the error."""
    try:
        table = open_beton(path)
    except ValueError as error:
        return str(error)
    source = table.source
    assert isinstance(source, Beton)
    columns = ("offset", "size", "jpg", "height", "width")
    found = {name: getattr(source, name).tolist() for name in columns}
    return found | {"label": table.label.tolist(), "channels": [table.channels]}


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(choice=st.data(), turned=st.booleans())
def test_many_rows_are_checked_in_parts_with_the_same_result(
    whole: tuple[Path, bytes], choice: st.DataObject, turned: bool
) -> None:
    """Columns that are shared and errors alike; also with a table in an order of its own."""
    path, data = whole
    begin = len(data) - 6 * ALLOCATION.itemsize
    entries = np.frombuffer(data[begin:], ALLOCATION)
    file = bytearray(data[:begin] + entries[:: -1 if turned else 1].tobytes())
    places = [*range(HEADER.itemsize + 2 * 1041, HEADER.itemsize + 2 * 1041 + 6 * 24)]
    for _ in range(choice.draw(st.integers(0, 3))):
        place = choice.draw(st.sampled_from([*places, *range(begin, len(data))]))
        file[place] = choice.draw(st.integers(0, 255))
    path.write_bytes(bytes(file))
    few = opened(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNMIX_CACHE", str(path.parent / "cache"))
        patch.setattr(columns, "LARGE", 1)
        patch.setattr(checks, "CHUNK", 2)
        assert opened(path) == opened(path) == few


def test_many_rows_are_checked_once_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(columns, "LARGE", 1)
    path = tmp_path / "a.beton"
    read: list[int] = []
    take = checks.Checks.take
    monkeypatch.setattr(checks.Checks, "take", lambda *args: (read.append(1), take(*args))[1])
    for rows, times in ((6, 1), (6, 1), (5, 2)):
        if times > len(read):
            write_beton(path, make_samples(rows), rows, PAGE)
        assert_same(path, make_samples(rows))
        assert len(read) == times
    assert len(list((tmp_path / "cache" / "tables").iterdir())) == 1  # none of the old file


def test_a_version_stands_for_the_file_that_fills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A remote file's time changes with every piece that arrives, and its rows do not."""
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(columns, "LARGE", 1)
    path = tmp_path / "a.beton"
    write_beton(path, make_samples(6), 6, PAGE)
    first = open_beton(path, "etag")
    os.utime(path, (1, 1))
    monkeypatch.setattr("pipelines.beton.format.Checks", None)  # no second check
    np.testing.assert_array_equal(open_beton(path, "etag").label, first.label)
    with pytest.raises(TypeError):
        open_beton(path, "another")
