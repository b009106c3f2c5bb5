"""Data at a URL: the batches of the local file, with each piece fetched once."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from beton_cases import jpeg, picture
from http_store import HttpStore, serving, skip_unless_local

from pipelines import build_eval_loader, build_loader, open_data
from pipelines.batch import Batch
from pipelines.beton.encode import Settings, Task, decode_rows, encode_rows
from pipelines.beton.format import Sample, open_beton
from pipelines.beton.writer import write_beton
from pipelines.data_facts import DATASETS, data_facts
from pipelines.datasets import check_spec, default_val
from pipelines.decoders.memory import decode_all
from pipelines.decoders.pil import pixels_or_replacement
from pipelines.evaluation import CenterCrop, evaluation_batches
from pipelines.mixtures.clim import Clim, RandomNeighbors
from pipelines.normalization import pixel_statistics
from pipelines.public.options import LoaderOptions
from pipelines.remote.connect import Retry
from pipelines.remote.errors import RemoteError
from pipelines.remote.file import RemoteOptions
from pipelines.remote.sparse import PIECE
from pipelines.sampler import BlockShuffle
from pipelines.sources.beton import Beton
from pipelines.sources.fetched import remote_files
from pipelines.system.page_cache import joined
from pipelines.system.scope import Interrupted, Scope, interruptible

pytest.importorskip("obstore", reason="remote files need obstore: pip install 'unmix[remote]'")
FAST = Retry(attempts=2, first_wait=0.002, longest_wait=0.01, silence=5.0, total=9.0)
ROWS, BATCH = 48, 8
BROKEN = 5
"""A row whose JPEG cannot be decoded."""


def sample(row: int) -> Sample:
    """Every third row is 120 kB of raw pixels, the others are JPEGs of about 55 kB."""
    image = picture(row, 200, 200)
    data = image.tobytes() if row % 3 == 0 else jpeg(image)
    if row == BROKEN:
        data = data[:300] + bytes(len(data) - 300)
    return Sample(data, 200, 200, row % 3 > 0, row % 2)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("local") / "train.beton"
    write_beton(place, (sample(row) for row in range(ROWS)), ROWS, 1 << 21)
    manifest = {"bytes": place.stat().st_size, "classes": ["cat", "dog"], "source": "cifar10"}
    place.with_name("train.beton.json").write_text(json.dumps(manifest))
    return place


@pytest.fixture
def web(local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpStore]:
    skip_unless_local(tmp_path)
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    files = {f"b/{path.name}": path.read_bytes() for path in local.parent.iterdir()}
    with serving(files) as server:
        yield server


def batches_of(
    spec: str, options: LoaderOptions | None = None, steps: int = 9, start: int = 0, **how: Any
) -> list[Batch]:
    """Batches of the first steps of a run, which are one and a half epochs."""
    data = open_data(spec, on_bad_image="replace")
    options = options or LoaderOptions(workers=1)
    how = {"size": 32, "mixture": "unmix", "groups": 2, "device": "cpu"} | how
    with build_loader(data, "moco-v2", BATCH, options=options, **how) as loader:
        return list(loader.loader.batches(start, steps))


def assert_equal(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert (a.step, a.index.tolist()) == (b.step, b.index.tolist())
        for one, other in zip((*a.views, *a.plain), (*b.views, *b.plain), strict=True):
            assert torch.equal(one, other)
        for mine, yours in zip(a.mixed, b.mixed, strict=True):
            assert torch.equal(mine.image, yours.image) and torch.equal(mine.lam, yours.lam)


CASES: dict[str, dict[str, Any]] = {
    "random": {},
    "resumed": {"start": 4},
    "no read-ahead": {"options": LoaderOptions(workers=1, read_ahead=0, prefetch=0)},
    "blocks": {"order": "blocks"},
    "rank 1 of 2": {"rank": 1, "world_size": 2},
    "clim": {"mixture": Clim(RandomNeighbors(ROWS))},
}


@pytest.mark.parametrize("how", CASES.values(), ids=CASES)
def test_batches_are_those_of_the_local_file(
    web: HttpStore, local: Path, how: dict[str, Any]
) -> None:
    """Row 5 is damaged, and replaced by row 6, which no read-ahead has asked for."""
    pytest.importorskip("ffcv")
    assert_equal(batches_of(f"{web.url}/b/train.beton", **how), batches_of(str(local), **how))


@pytest.mark.parametrize("loader", ["ffcv", "dali"])
def test_evaluation_is_that_of_the_local_file(web: HttpStore, local: Path, loader: Any) -> None:
    pytest.importorskip({"dali": "nvidia.dali"}.get(loader, loader))
    options, sweeps = LoaderOptions(loader=loader, workers=1), []
    for spec in (f"{web.url}/b/train.beton", str(local)):
        data = open_data(spec, on_bad_image="replace")
        with build_eval_loader(data, 7, size=32, device="cpu", options=options) as images:
            sweeps.append(list(images))
    assert_equal(*sweeps)


VERSION = (0, 1)
"""The byte that is asked for to learn an object's size and version."""


def pieces(ranges: Iterable[Sequence[int]]) -> list[int]:
    """The numbers of the pieces of byte ranges, with repetitions."""
    return [number for begin, end in ranges for number in range(begin // PIECE, -(-end // PIECE))]


def gets(web: HttpStore) -> list[tuple[int, int]]:
    """The ranges of bytes that were fetched."""
    return [range_ for range_ in web.fetched("train.beton") if range_ != VERSION]


@pytest.mark.parametrize("order", ["random", "blocks"])
def test_two_ranks_fetch_each_piece_once_and_none_that_no_row_needs(
    web: HttpStore, local: Path, order: Any
) -> None:
    url, index = f"{web.url}/b/train.beton", open_beton(local).source
    assert isinstance(index, Beton)
    blocks = BlockShuffle(index.file_order(), 2, 4, 2)
    tables = [open_data(url, on_bad_image="replace") for _ in range(2)]
    opened = set(pieces(gets(web)))
    rows = np.zeros(0, np.int64)
    for rank, data in enumerate(tables):
        how: dict[str, Any] = {"order": blocks if order == "blocks" else order}
        options = LoaderOptions(loader="dali", workers=1)
        with build_loader(
            data, "moco-v2", BATCH, size=16, device="cpu", options=options,
            rank=rank, world_size=2, groups=2, **how,
        ) as loader:  # fmt: skip
            shown = [batch.index.numpy() for batch in loader.loader.batches(0, 3)]
        rows = np.union1d(rows, np.concatenate(shown))
    if order == "blocks":
        rows = np.unique(np.concatenate([blocks.rows(int(b)) for b in np.unique(blocks.of(rows))]))
    if BROKEN in rows:
        rows = np.union1d(rows, [BROKEN + 1])
    where = index.pieces(rows)
    ends = zip(where.offset.tolist(), (where.offset + where.size).tolist(), strict=True)
    got = pieces(gets(web))
    wanted = pieces(joined(where.offset, where.size).tolist())
    assert set(pieces(ends)) <= set(wanted) and set(got) == set(wanted) | opened
    assert sorted(got) == sorted(set(got))
    counters = [file.counters for data in tables for file in remote_files(data.table.source)]
    assert sum(c.requests for c in counters) == len(gets(web))
    assert sum(c.bytes_fetched for c in counters) == sum(end - begin for begin, end in gets(web))


def test_the_url_is_named_and_its_neighbours_are_found(
    web: HttpStore, local: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"{web.url}/b/train.beton"
    assert default_val(url) is None
    web.objects["b/valid.beton"] = local.read_bytes()
    assert default_val(url) == f"{web.url}/b/valid.beton"
    assert data_facts(url) == DATASETS["cifar10"]  # from the manifest
    data = open_data(url)
    assert data.classes == ("cat", "dog") and data.names[3] == f"{url} row 3"
    web.objects["b/short.beton"] = local.read_bytes()[:-100]
    web.objects["b/short.beton.json"] = web.objects["b/train.beton.json"]
    with pytest.raises(ValueError, match=rf"^{web.url}/b/short\.beton: .*cut off"):
        open_data(f"{web.url}/b/short.beton")
    assert f"{web.url}/b/short.beton.json describes another file" in caplog.text
    for wrong in (f"{web.url}/b/train.tar", "s3://bucket/images/"):
        with pytest.raises(ValueError, match=r"must be a \.beton, as s3://bucket/train\.beton"):
            check_spec(wrong)
    check_spec("gs://bucket/train.beton?signature=1")


@pytest.fixture
def slow(web: HttpStore, tmp_path: Path) -> Any:
    """A loader of which no image is here yet."""
    options = RemoteOptions(tmp_path / "slow", retry=FAST)
    data = open_data(f"{web.url}/b/train.beton", on_bad_image="replace", remote=options)
    loader = LoaderOptions(loader="dali", workers=1)
    with build_loader(data, "moco-v2", BATCH, size=16, device="cpu", options=loader) as made:
        yield made


def test_a_loop_that_is_stopped_does_not_wait_for_the_store(slow: Any, web: HttpStore) -> None:
    stopped = threading.Event()
    web.fault("hang", times=1000)
    threading.Timer(0.2, stopped.set).start()
    with interruptible(stopped.is_set), pytest.raises(Interrupted):
        list(slow.loader.batches(0, 6))
    assert web.serving  # it has not answered yet
    assert not [t.name for t in threading.enumerate() if t.name.startswith("unmix-prefetch")]


def evaluation(loader: Any) -> Any:
    crop = CenterCrop(16, 16, (0.5,) * 3, (0.5,) * 3)
    maker = loader.loader.maker
    return evaluation_batches(maker.table, maker.decoder, crop, BATCH, torch.device("cpu"))


def test_an_evaluation_that_is_stopped_does_not_wait_for_the_store(
    slow: Any, web: HttpStore
) -> None:
    stopped = threading.Event()
    web.fault("hang", times=1000)
    threading.Timer(0.2, stopped.set).start()
    with interruptible(stopped.is_set), pytest.raises(Interrupted):
        list(evaluation(slow))
    assert web.serving  # it has not answered yet
    main = threading.get_ident()
    threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT)).start()  # Ctrl-C
    with pytest.raises(KeyboardInterrupt):
        list(evaluation(slow))
    ours = "unmix-evaluation", "unmix-read-ahead"
    assert not [t.name for t in threading.enumerate() if t.name.startswith(ours)]


def test_a_loop_goes_on_while_others_over_the_same_file_come_and_go(slow: Any, local: Path) -> None:
    """The batches are bit for bit those of the local file."""
    ours, theirs = list[Batch](), build_loader(
        open_data(str(local), on_bad_image="replace"), "moco-v2", BATCH, size=16, device="cpu",
        options=LoaderOptions(loader="dali", workers=1),
    )  # fmt: skip
    for batch in slow.loader.batches(0, 4):
        ours.append(batch)
        others = slow.loader.batches(20, 26), evaluation(slow)
        for other in others:
            next(other)
            other.close()
    with theirs:
        assert_equal(ours, list(theirs.loader.batches(0, 4)))


def test_an_error_of_the_store_ends_the_loop_and_a_later_one_goes_on(
    slow: Any, web: HttpStore
) -> None:
    web.fault("403", times=1000)
    with pytest.raises(RemoteError, match=r"train\.beton: access denied \(403\).*a signed URL"):
        list(slow.loader.batches(0, 6))
    web.heal()
    assert [batch.step for batch in slow.loader.batches(0, 6)] == list(range(6))


def test_a_row_that_cannot_be_fetched_is_not_replaced(slow: Any, web: HttpStore) -> None:
    """A damaged image's replacement depends on the file, and not on the store."""
    table = slow.loader.maker.table
    with table.source.held(np.array([BROKEN])):
        pass
    file = remote_files(table.source)[0]
    damaged, next_one = table.source.pieces(np.array([BROKEN, BROKEN + 1])).offset.tolist()
    assert not file.missing(np.array([[damaged, damaged + 1]]))
    file._file.record.state[next_one // PIECE :] = 0
    web.fault("403", times=1000)
    with pytest.raises(RemoteError, match="403"):
        pixels_or_replacement(table, BROKEN, "replace")


@pytest.mark.parametrize("measure", [decode_all, lambda table, *how: pixel_statistics(table)])
def test_a_pass_over_all_rows_that_is_stopped_does_not_wait_for_the_store(
    measure: Any, web: HttpStore, tmp_path: Path
) -> None:
    data = open_data(f"{web.url}/b/train.beton", remote=RemoteOptions(tmp_path, retry=Retry()))
    web.fault("hang", times=1000)
    main = threading.get_ident()
    threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT)).start()  # Ctrl-C
    with pytest.raises(KeyboardInterrupt):
        measure(data.table, 2, "stop")
    assert web.serving  # it has not answered yet
    stopped = threading.Event()  # by a signal to a run
    threading.Timer(0.2, stopped.set).start()
    with interruptible(stopped.is_set), pytest.raises(Interrupted):
        measure(data.table, 2, "stop")


def test_a_store_that_fails_makes_no_damaged_image(web: HttpStore, tmp_path: Path) -> None:
    data = open_data(f"{web.url}/b/train.beton", remote=RemoteOptions(tmp_path, retry=FAST))
    web.fault("403", times=1000)
    rows = data.table.take(np.arange(ROWS - 9, ROWS))
    for work in (encode_rows, decode_rows):
        with pytest.raises(RemoteError, match="403"):
            work(Task(rows, Settings(), 1 << 20))


def test_a_loop_that_ends_makes_no_damaged_image(web: HttpStore, tmp_path: Path) -> None:
    data = open_data(f"{web.url}/b/train.beton", remote=RemoteOptions(tmp_path, retry=FAST))
    rows = data.table.take(np.arange(ROWS - 9, ROWS))

    def ends(scope: Scope, work: Any) -> None:
        scope.close()
        work(Task(rows, Settings(), 1 << 20))

    for work in (encode_rows, decode_rows):
        scope = Scope()
        with pytest.raises(Interrupted):
            scope.run(ends, scope, work)
