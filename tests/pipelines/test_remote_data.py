"""Data at a URL: the batches of the local file, with each piece fetched once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from beton_cases import jpeg, picture
from http_store import HttpStore, serving

from pipelines import build_eval_loader, build_loader, open_data
from pipelines.batch import Batch
from pipelines.beton.format import Sample
from pipelines.beton.writer import write_beton
from pipelines.mixtures.clim import Clim, RandomNeighbors
from pipelines.public.options import LoaderOptions
from pipelines.remote import disk
from pipelines.remote.connect import Retry
from pipelines.remote.errors import RemoteError

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
    try:
        disk.require_local(tmp_path)
    except RemoteError as error:
        pytest.skip(str(error))
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
