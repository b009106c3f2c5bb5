"""Data that is damaged, deleted or changed before or during a run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attempts import consumed, finish, nothing, start
from launch_cases import flags
from runs import lines, run_main

from pipelines.beton.format import open_beton
from pipelines.sources.beton import Beton
from tools import write_ffcv

STEPS = 6
"""Three epochs of the 40 images in batches of 16."""


@pytest.fixture(scope="module")
def beton(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy images, their JPEGs as they are."""
    path = tmp_path_factory.mktemp("beton") / "toy.beton"
    assert run_main(write_ffcv.main, f"folder:{toy}", str(path), "--keep-jpeg") == 0
    return path


def run(data: str, where: Path, *more: str, arrange: Any = nothing) -> tuple[int, str, list]:
    """A run on the data; its status, what it said, and the rows it consumed."""
    base = flags(where, where, "simclr", "--mix", "unmix", "--limit-steps", str(STEPS))
    argv = (*base, "--data", data, "--val-data", "none", *more)
    status = finish(start(argv, where / "rows", arrange))
    said = (where / "rows.txt").read_text()
    assert "Traceback" not in said, said
    return status, said, consumed(where / "rows")


def copy(beton: Path, where: Path, change: Callable[[bytearray, Beton], None]) -> Path:
    """A copy of the file with some of its bytes changed."""
    source = open_beton(beton).source
    assert isinstance(source, Beton)
    data = bytearray(beton.read_bytes())
    change(data, source)
    path = where / "damaged.beton"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("loader", ["ffcv", "dali"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_beton_that_is_cut_off_is_refused(
    beton: Path, tmp_path: Path, loader: str, share: float
) -> None:
    def cut(data: bytearray, source: Beton) -> None:
        del data[int(share * len(data)) :]

    path = copy(beton, tmp_path, cut)
    status, said, rows = run(str(path), tmp_path, "--loader", loader)
    assert status == 2 and str(path) in said and not rows


@pytest.mark.parametrize("loader", ["ffcv", "dali"])
@pytest.mark.parametrize("seed", range(3))
def test_bytes_flipped_in_the_images_of_a_beton(
    beton: Path, tmp_path: Path, loader: str, seed: int
) -> None:
    """40 of 40 images damaged somewhere: PIL decides of each; every batch that comes is whole."""

    def flip(data: bytearray, source: Beton) -> None:
        rng = np.random.default_rng(seed)
        for offset, size in zip(source.offset.tolist(), source.size.tolist(), strict=True):
            for place in rng.integers(0, size, 3):
                data[offset + int(place)] ^= 1 << int(rng.integers(8))

    path = copy(beton, tmp_path, flip)
    more = ("--loader", loader, "--on-bad-image", "replace")
    status, said, rows = run(str(path), tmp_path, *more)
    assert status == 0, said
    assert [(step, len(set(row))) for step, row in rows] == [(step, 16) for step in range(STEPS)]
    for epoch in range(STEPS // 2):
        assert len({row for _, batch in rows[2 * epoch : 2 * epoch + 2] for row in batch}) == 32
    assert lines(tmp_path / "run")[-1]["images_replaced"] > 0


def with_warning(data: bytearray, source: Beton) -> None:
    """Damage the scans: PIL still reads the images, the fast decoders fail or complain."""
    for offset, size in zip(source.offset.tolist(), source.size.tolist(), strict=True):
        data[offset + size - 12 : offset + size - 6] = bytes([0x55, 0xAA, 0x12, 0, 0x13, 0x7E])


@pytest.mark.parametrize("loader", ["ffcv", "dali"])
def test_warnings_of_the_fast_decoder_leave_every_batch_whole(
    beton: Path, tmp_path: Path, loader: str
) -> None:
    path = copy(beton, tmp_path, with_warning)
    status, said, rows = run(str(path), tmp_path, "--loader", loader, "--on-bad-image", "replace")
    assert status == 0, said
    (tmp_path / "whole").mkdir()
    _, _, want = run(str(beton), tmp_path / "whole", "--loader", loader)
    assert rows == want and len(rows) == STEPS


def spoil_at(step: int, how: str, folder: Path) -> None:
    """Arrange for all JPEGs of a folder to be deleted or replaced after a step."""
    from tools.engine import trainer

    train_on = trainer.Learner.train_on

    def spoiling(run: Any, batch: Any) -> None:
        train_on(run, batch)
        if batch.step == step:
            for path in folder.rglob("*.jpg"):
                path.unlink()
                if how == "changed":
                    path.write_bytes(b"not a JPEG any more")
                if how == "another size":
                    shutil.copy(folder.parent / "odd.jpg", path)

    trainer.Learner.train_on = spoiling


@pytest.mark.parametrize("how", ["deleted", "changed", "another size"])
def test_images_that_go_while_the_run_reads_them(toy: Path, tmp_path: Path, how: str) -> None:
    """The run stops at the next batch that holds one, and names it."""
    from PIL import Image

    shutil.copytree(toy / "train", tmp_path / "data")
    Image.new("RGB", (24, 22)).save(tmp_path / "odd.jpg")
    argv = flags(toy, tmp_path, "simclr", "--data", f"folder:{tmp_path / 'data'}")
    more = ("--loader", "dali", "--prefetch", "1", "--val-data", "none", "--limit-steps", "60")
    arrange = (spoil_at, 1, how, tmp_path / "data")
    process = start((*argv, *more, "--epochs", "100"), tmp_path / "rows", *arrange)
    assert finish(process) == 2
    said, rows = (tmp_path / "rows.txt").read_text(), consumed(tmp_path / "rows")
    assert str(tmp_path / "data") in said and ".jpg" in said and "Traceback" not in said
    assert 2 <= len(rows) < 8 and all(len(row) == 16 for _, row in rows)


def backwards() -> None:
    """Arrange for a wall clock that runs backwards, an hour a look."""
    import time

    now = iter(range(10**9, 0, -3600))
    time.time = lambda: float(next(now))  # type: ignore[assignment]


def test_a_clock_that_goes_backwards_changes_nothing(toy: Path, tmp_path: Path) -> None:
    """The wall clock is asked for nothing that matters: times are of the monotonic clock."""
    for name, arrange in (("a", nothing), ("b", backwards)):
        (tmp_path / name).mkdir()
        data = f"folder:{toy}"
        status, said, _ = run(data, tmp_path / name, "--checkpoint-every", "2", arrange=arrange)
        assert status == 0, said
    a, b = (lines(tmp_path / x / "run") for x in "ab")
    assert [(m["step"], m["loss"]) for m in a] == [(m["step"], m["loss"]) for m in b]
    measured = [m for m in b if m["images_per_second"] is not None]
    assert all(m["images_per_second"] > 0 and 0 <= m["data_wait"] <= 1 for m in measured)
    assert measured
    kept = [sorted(p.name for p in (tmp_path / x / "run" / "checkpoints").iterdir()) for x in "ab"]
    assert kept[0] == kept[1]
