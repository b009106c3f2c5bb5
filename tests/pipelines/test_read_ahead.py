"""Read-ahead: bytes are requested before they are needed, once, and never beyond the range."""

import ctypes
import mmap
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.beton.format import Sample, open_beton
from pipelines.beton.writer import write_beton
from pipelines.decoders import Crops
from pipelines.loader import Loader
from pipelines.mixtures.clim import Clim, RandomNeighbors
from pipelines.read_ahead import ReadAhead
from pipelines.sampler import BlockShuffle, Sampler
from pipelines.sources.arrays import Arrays
from pipelines.sources.beton import Beton
from pipelines.sources.files import Files
from pipelines.sources.source import Source
from pipelines.sources.table import Table
from pipelines.step_maker import StepMaker
from pipelines.system import page_cache
from pipelines.views import View, ViewPlan

ROWS, BATCH, AHEAD = 103, 8, 3


@dataclass(frozen=True)
class Asked(Arrays):
    """A source that records what it was asked for."""

    title: str = "test"
    images: np.ndarray = field(default_factory=lambda: np.zeros((ROWS, 2, 2, 3), np.uint8))
    calls: list[np.ndarray] = field(default_factory=list)

    def will_need(self, rows: np.ndarray) -> None:
        self.calls.append(rows)


def order_of(blocks: bool, rank: int = 0, world_size: int = 1) -> Sampler:
    sequence = np.random.default_rng(1).permutation(ROWS)
    return Sampler(
        ROWS, BATCH, 5, rank, world_size, BlockShuffle(sequence, 4, 5, 2) if blocks else None
    )


def asked_during(reader: ReadAhead, source: Asked, step: int) -> list[np.ndarray]:
    before = len(source.calls)
    reader.during(step)
    assert reader._asking is not None
    reader._asking.result()
    return source.calls[before:]


@pytest.mark.parametrize("start", [0, 5])
def test_each_step_is_asked_for_once_and_ahead(start: int) -> None:
    source, order, stop = Asked(), order_of(blocks=False, rank=1, world_size=2), 17
    reader, first = ReadAhead(source, order, start, stop, AHEAD), start
    for step in range(start, stop):
        until = min(step + AHEAD + 1, stop)
        found = asked_during(reader, source, step)
        assert len(found) == until - first
        for rows, ahead in zip(found, range(first, until), strict=True):
            np.testing.assert_array_equal(rows, order.rows(ahead))
        first = until
    reader.close()


@pytest.mark.parametrize("start", [0, 5])
def test_blocks_are_asked_for_whole_and_once_an_epoch(start: int) -> None:
    source, order, stop = Asked(), order_of(blocks=True), 24  # two epochs of 12 steps
    blocks, reader = order.blocks, ReadAhead(source, order, start, stop, AHEAD)
    assert blocks is not None
    for step in range(start, stop):
        asked_during(reader, source, step)
        had = {int(row) for rows in source.calls for row in rows}
        assert had.issuperset(order.rows(step).tolist())
    reader.close()
    needed = [
        blocks.of(np.concatenate([order.rows(step) for step in steps]))
        for steps in (range(start, 12), range(12, stop))
    ]
    expected = [blocks.rows(int(block)) for block in np.concatenate(needed)]
    assert sorted(np.concatenate(source.calls)) == sorted(np.concatenate(expected))
    assert all(len(rows) for rows in source.calls)


class Nothing:
    """A decoder of empty crops."""

    decodes = replaced = 0
    bad_rows: set[int] = set()  # noqa: RUF012 - it stays empty

    def __call__(self, rows: np.ndarray, crops: Sequence[Crops]) -> list[torch.Tensor]:
        return [torch.zeros(len(c.box), c.size, c.size, 3, dtype=torch.uint8) for c in crops]

    def close(self) -> None:
        pass


def loader_of(source: Source, steps: int) -> Loader:
    size = np.full(ROWS, 2, np.int32)
    table = Table(np.zeros(ROWS, np.int64), size, size, source)
    mean = (0.5, 0.5, 0.5)
    views = ViewPlan((View(2),))
    maker = StepMaker(table, order_of(blocks=False), views, Nothing(), mean, mean)
    return Loader(maker, read_ahead=steps)


def test_the_loader_asks_for_its_range_and_nothing_else() -> None:
    source = Asked()
    loader = loader_of(source, AHEAD)
    assert [batch.step for batch in loader.batches(3, 15)] == list(range(3, 15))
    asked = [rows.tolist() for rows in source.calls]
    assert asked == [loader.maker.sampler.rows(step).tolist() for step in range(3, 15)]
    before = threading.active_count()
    next(iter(loader_of(source, AHEAD).batches(0, 10)))
    assert threading.active_count() == before  # a loop that is left early leaves no thread


class Decoded(Nothing):
    """Keeps the rows it decoded."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []

    def __call__(self, rows: np.ndarray, crops: Sequence[Crops]) -> list[torch.Tensor]:
        self.rows.append(sorted(rows.tolist()))
        return super().__call__(rows, crops)


@pytest.mark.parametrize("blocks", [False, True])
def test_neighbours_are_asked_for_as_well(blocks: bool) -> None:
    """What a step decodes was asked for, and without blocks nothing else."""
    source, decoder = Asked(), Decoded()
    order = order_of(blocks, rank=1, world_size=2)
    plain, clim = loader_of(source, AHEAD), Clim(RandomNeighbors(ROWS))
    maker = replace(plain.maker, sampler=order, decoder=decoder, mixture=clim, groups=2)
    loader = replace(plain, maker=maker)
    assert len(list(loader.batches(3, 15))) == 12
    asked = [rows.tolist() for rows in source.calls]
    if blocks:
        assert set().union(*asked) >= {row for rows in decoder.rows for row in rows}
    else:
        assert asked == decoder.rows


def test_without_read_ahead_nothing_is_asked_for() -> None:
    source = Asked()
    assert len(list(loader_of(source, 0).batches(0, 5))) == 5
    assert not source.calls


def test_a_fault_of_the_source_reaches_the_loop() -> None:
    class Faulty(Asked):
        def will_need(self, rows: np.ndarray) -> None:
            raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        list(loader_of(Faulty(), AHEAD).batches(0, 12))


def test_neighbours_are_asked_for_at_once() -> None:
    gap = page_cache.GAP
    begin = np.array([7 * gap, 0, 100, 3 * gap, 50], np.uint64)
    size = np.array([10, 60, gap, 5, 10], np.uint64)
    found = page_cache.joined(begin, size)
    np.testing.assert_array_equal(
        found, [[0, gap + 100], [3 * gap, 3 * gap + 5], [7 * gap, 7 * gap + 10]]
    )


def resident(path: Path, begin: int = 0, end: int | None = None) -> float:
    """The share of the file's pages that the system holds."""
    end = path.stat().st_size if end is None else end
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        view = np.frombuffer(memory, np.uint8)
        pages = (ctypes.c_ubyte * -(-(end - begin) // mmap.PAGESIZE))()
        address = ctypes.c_void_p(view.ctypes.data + begin)
        failed = ctypes.CDLL(None).mincore(address, ctypes.c_size_t(end - begin), pages)
        del view
    assert not failed
    return sum(page & 1 for page in pages) / len(pages)


def flush(path: Path) -> None:
    """Write the file to the disk; skip where the system cannot drop what it holds of it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    page_cache.forget(path)
    if resident(path):
        pytest.skip("this file system keeps its pages in memory (tmpfs?)")


@pytest.fixture
def beton(tmp_path: Path) -> Path:
    """Sixteen raw rows of 192 KiB."""
    rng = np.random.default_rng(0)
    rows = [Sample(rng.bytes(256 * 256 * 3), 256, 256, False, 0) for _ in range(16)]
    write_beton(tmp_path / "a.beton", rows, 16, 1 << 21)
    flush(tmp_path / "a.beton")
    return tmp_path / "a.beton"


def wait_for(path: Path, begin: int, end: int) -> float:
    """The share once it is whole, or after two seconds."""
    for _ in range(100):
        if resident(path, begin, end) == 1:
            break
        threading.Event().wait(0.02)
    return resident(path, begin, end)


def pages_of(source: Beton, rows: np.ndarray) -> list[list[int]]:
    pieces = source.pieces(rows)
    return page_cache.whole_pages(page_cache.joined(pieces.offset, pieces.size)).tolist()


def test_a_beton_s_rows_are_dropped_although_mapped_and_read_ahead(beton: Path) -> None:
    table = open_beton(beton)
    source, every = table.source, np.arange(16)
    assert isinstance(source, Beton)
    checksum = [int(source.pixels(row).sum()) for row in range(16)]
    ranges = pages_of(source, every)
    page_cache.forget(beton)
    assert [resident(beton, *r) for r in ranges] == [1] * len(ranges)  # mapped: the system's stay
    source.forget(every)
    assert resident(beton) == 0
    few = every[4:8]
    source.will_need(few)
    ranges = pages_of(source, few)
    assert all(wait_for(beton, *r) == 1 for r in ranges)
    assert resident(beton) < 0.5
    assert [int(source.pixels(row).sum()) for row in range(16)] == checksum


def test_files_are_dropped_and_read_ahead(tmp_path: Path) -> None:
    names = ["a.jpg", "b.jpg", "missing.jpg"]
    for name in names[:2]:
        (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(500_000))
        flush(tmp_path / name)
    source = Files(tmp_path, names)
    source.will_need(np.array([1, 2]))  # one that is missing is the decoder's to report
    assert wait_for(tmp_path / "b.jpg", 0, 500_000) == 1
    assert resident(tmp_path / "a.jpg") == 0
    source.forget(np.array([0, 1, 2]))
    assert resident(tmp_path / "b.jpg") == 0
