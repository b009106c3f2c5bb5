"""Runs with --mix clim: the batch of a step, refused flags, resuming, the picture of neighbours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import SMALL, TINY, lines, reset_accelerate, run_main, run_train, skip_pictures

from pipelines.beton.convert import cached_beton
from pipelines.datasets import open_data
from pipelines.decoders.build import build_decoder
from pipelines.loader import Loader
from pipelines.mixtures.clim import Clim, NeighborTable, RandomNeighbors
from pipelines.rng import RowRng
from pipelines.sampler import Sampler
from pipelines.sources.table import Table
from pipelines.step_maker import StepMaker
from pipelines.views import View, ViewPlan
from tools import neighbours
from tools.config.cli import parse, to_dict
from tools.distributed import launch
from tools.engine.clim_refresh import ClimRefresh
from tools.engine.data import Data
from tools.runs import checkpoint


@pytest.fixture
def table(toy: Path) -> Table:
    return open_data(f"folder:{toy}", toy, "train", on_bad="stop", classes_file=None)


def loader(
    table: Table,
    kind: str = "memory",
    rank: int = 0,
    world: int = 1,
    size: int = 8,
    views: tuple[View, ...] = (View(16), View(16)),
) -> Loader:
    rows = np.arange(40, dtype=np.int32)
    near = np.stack([(rows + 1) % 40, (rows + 3) % 40], 1)
    count = np.where(rows % 5 == 0, 0, 2).astype(np.int32)
    decoder = build_decoder(
        kind, table, interpolation="antialias", workers=2, device=torch.device("cpu"), on_bad="stop"
    )
    maker = StepMaker(
        table=table,
        sampler=Sampler(40, size, 7, rank, world),
        views=ViewPlan(views),
        decoder=decoder,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        mixture=Clim(NeighborTable(near, count)),
        groups=4,
    )
    return Loader(maker)


def neighbors_of(made: Loader, anchors: torch.Tensor) -> np.ndarray:
    """The rows that the loader's table gives to anchors in its first epoch."""
    mixture = made.maker.mixture
    assert isinstance(mixture, Clim)
    return mixture.neighbors.draw(anchors.numpy(), RowRng(7, 0))


def test_a_step_holds_anchors_then_neighbours(table: Table) -> None:
    made = loader(table)
    for batch in made.batches(0, 5):
        n = 8
        drawn = neighbors_of(made, batch.index)
        alone = torch.from_numpy(drawn) == batch.index
        assert torch.equal(alone, batch.index % 5 == 0)
        (mixed,) = batch.mixed
        own = torch.arange(n)
        assert torch.equal(mixed.partner, torch.where(alone, own, own + n))
        assert all(view.shape == (2 * n, 3, 16, 16) for view in batch.views)
        first = batch.views[0]
        pixels = (mixed.image != first[:n]).any(1)  # inside the box, nearly everywhere
        assert torch.equal(mixed.image, torch.where(pixels[:, None], first[n:], first[:n]))
        share = 1 - pixels.float().mean((1, 2))
        assert (share >= mixed.lam - 1e-6).all() and (share - mixed.lam < 0.1).all()
        # another view of the same image, not the same view twice
        assert (first[:n] != first[n:])[alone].any()
    made.maker.decoder.close()


def test_neighbours_are_the_images_that_the_table_names(table: Table) -> None:
    whole = View(16, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, jitter_prob=0.0, gray=0.0)
    made = loader(table, views=(whole, whole))
    alone = Loader(replace(made.maker, mixture=None))
    image = {
        int(i): x
        for batch in alone.batches(0, 5)
        for i, x in zip(batch.index, batch.views[0], strict=True)
    }
    assert len(image) == 40
    for batch in made.batches(0, 5):
        drawn = neighbors_of(made, batch.index)
        expected = torch.stack([image[int(i)] for i in (*batch.index, *drawn)])
        for view in batch.views:
            torch.testing.assert_close(view, expected)
    made.maker.decoder.close()


def test_each_distinct_image_is_decoded_once(table: Table, toy: Path) -> None:
    """Law 7: anchors, neighbours, and those that are both."""
    pytest.importorskip("ffcv")
    made = loader(cached_beton(table, f"folder:{toy}"), "ffcv")
    expected = 0
    for batch in made.batches(0, 5):
        drawn = neighbors_of(made, batch.index)
        expected += len(set(batch.index.tolist()) | set(drawn.tolist()))
    assert made.maker.decoder.decodes == expected < 5 * 16
    made.maker.decoder.close()


def test_neighbours_depend_on_the_anchor_alone(table: Table) -> None:
    """Law 1: the same images and boxes for other batch and world sizes."""

    def shown(*loaders: Loader) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        seen = {}
        for each in loaders:
            for batch in each.batches(0, 40 // each.maker.sampler.batch_size):
                n = len(batch.index)
                for row, i in enumerate(batch.index.tolist()):
                    seen[i] = batch.views[0][n + row], batch.views[1][n + row]
            each.maker.decoder.close()
        return seen

    one = shown(loader(table))
    two = shown(*(loader(table, rank=r, world=2, size=20) for r in (0, 1)))
    assert one.keys() == two.keys() and len(one) == 40
    for i, views in one.items():
        assert all(torch.equal(a, b) for a, b in zip(views, two[i], strict=True))


def test_any_row_needs_no_table(table: Table) -> None:
    made = loader(table)
    made.maker.mixture = Clim(RandomNeighbors(40))
    batch = next(made.batches(0, 1))
    assert (batch.mixed[0].partner >= 8).all()
    made.maker.decoder.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave out pictures and second threads, which take most of a tiny run's time."""
    monkeypatch.setattr(launch, "cores_per_process", lambda: 1)
    skip_pictures(monkeypatch)
    yield
    reset_accelerate()


CLIM = (
    *("--mix", "clim", "--clim.neighbours", "5", "--clim.clusters", "4"),
    *("--clim.start-epoch", "1", "--clim.refresh", "1"),
)


def flags(toy: Path, output: Path, method: str, *more: str) -> tuple[str, ...]:
    where = ("--data", f"folder:{toy}", "--output", str(output), "--name", "run")
    online = ("--byol.mix-online",) if method == "byol" else ()
    return ("--method", method, *TINY, *SMALL[method], *online, *CLIM, *where, *more)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("moco", ("--clim.rule", "ranked", "--clim.mode", "csml", "--clim.denominator", "shared")),
        ("moco", ("--clim.rule", "random", "--clim.mode", "replace", "--clim.kind", "mixup")),
        ("byol", ("--clim.features", "online", "--clim.fallback", "skip", "--clim.half")),
        ("moco", ("--clim.rule", "cluster", "--clim.fallback", "nearest", "--mix-draw", "group")),
    ],
)
def test_runs(toy: Path, tmp_path: Path, method: str, more: tuple[str, ...]) -> None:
    assert run_train(*flags(toy, tmp_path, method, *more, "--limit-steps", "3")) == 0
    written = lines(tmp_path / "run")
    assert [line["step"] for line in written] == [1, 2, 3]
    assert all(line["loss"] > 0 and 0 < line["lam"] <= 1 for line in written)
    searched = [line["step"] for line in written if "clim_purity" in line]
    assert searched == ([] if "random" in more else [3])  # after step 2, the first epoch's last
    for line in written:
        if "clim_purity" in line:
            assert 0 <= line["clim_fallback"] <= 1 and line["clim_set_size"] <= 5
            assert line["clim_candidate_purity"] > 0.6  # two classes that differ in colour


@pytest.mark.usefixtures("quick")
def test_a_resumed_run_is_the_straight_run(toy: Path, tmp_path: Path) -> None:
    """Law 3 and check (h): inside an epoch with a table, and where one is renewed."""
    straight = flags(toy, tmp_path / "a", "moco", "--limit-steps", "5")
    assert run_train(*straight) == 0
    killed = flags(toy, tmp_path / "b", "moco")
    for until in (3, 4, 5):
        resume = ("--resume", "auto") if until > 3 else ()
        assert run_train(*killed, "--limit-steps", str(until), *resume) == 0
    timeless = [
        [{k: v for k, v in m.items() if k not in ("images_per_second", "data_wait")} for m in each]
        for each in (lines(tmp_path / x / "run") for x in "ab")
    ]
    assert timeless[0] == timeless[1] and len(timeless[0]) == 5
    a, b = (
        checkpoint.load(tmp_path / x / "run" / "checkpoints" / "step-5.pt")["neighbours"]
        for x in "ab"
    )
    assert a["step"] == b["step"] == 4
    assert torch.equal(a["rows"], b["rows"]) and torch.equal(a["count"], b["count"])
    changed = (*killed, "--resume", "auto", "--clim.alpha", "1")
    assert run_train(*changed) == 2


@pytest.mark.usefixtures("quick")
def test_refusals(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for method, more, said in (
        ("simclr", (), "--mix clim cannot go with --method simclr"),
        ("moco", ("--moco.symmetric",), "--moco.symmetric"),
        ("moco", ("--clim.neighbours", "40"), "--clim.neighbours 40 needs more than 40 images"),
        ("moco", ("--clim.refresh", "0"), "--clim.refresh must be at least 1"),
        ("moco", ("--clim.alpha", "0"), "--clim.alpha must be above 0"),
        ("moco", ("--mix", "unmix"), "needs --mix clim"),
    ):
        assert run_train(*flags(toy, tmp_path, method, *more, "--dry-run")) == 2
        assert said in capsys.readouterr().err


def test_settings_are_kept_only_where_they_count() -> None:
    assert to_dict(parse(["--method", "moco", "--mix", "clim"]))["clim"]["rule"] == "centre"
    assert "clim" not in to_dict(parse(["--method", "moco", "--mix", "unmix"]))


@pytest.mark.usefixtures("quick")
def test_the_tool_draws_a_run(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_train(*flags(toy, tmp_path, "moco", "--limit-steps", "3")) == 0
    capsys.readouterr()
    run = tmp_path / "run"
    words = ("--run", str(run), "--num", "3", "--rule", "ranked")
    assert run_main(neighbours.main, *words) == 0
    said = capsys.readouterr().out
    for rule in ("centre", "centre-same", "knn", "cluster", "ranked"):
        assert f"\n{rule} " in said
    assert re.search(r"rule ranked: \d\.\d neighbours an image", said)
    with Image.open(run / "neighbours.png") as image:
        assert image.width > 500 and len(image.getcolors(1 << 20) or [0] * 100) >= 100
    assert run_main(neighbours.main, "--run", str(tmp_path / "nobody")) == 2


def test_tables_change_at_the_start_and_every_few_epochs_after(table: Table) -> None:
    config = parse(["--method", "moco", "--mix", "clim", "--clim.start-epoch", "2"])
    parts: list[Any] = [None] * 5
    held = ClimRefresh(config, Data(table, None, None), *parts, steps_per_epoch=3)  # type: ignore[arg-type]
    changes = [step for step in range(1, 60) if held.due(step - 1) == step]
    assert changes == [6, 21, 36, 51]  # epochs 2, 7, 12, 17
    alone = held.at(5)
    assert isinstance(alone, NeighborTable) and not alone.count.any()
    config = parse(["--method", "moco", "--mix", "unmix"])
    off = ClimRefresh(config, Data(table, None, None), *parts, steps_per_epoch=3)  # type: ignore[arg-type]
    assert off.at(6) is None and off.due(0) > 10**9
