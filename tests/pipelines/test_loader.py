"""Laws 1, 2, 7 and 10 on the assembled loader, and its prefetching: neither early nor late."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.augment.params import draw_params
from pipelines.augment.reference import augment, plan
from pipelines.batch import Batch
from pipelines.beton.convert import cached_beton
from pipelines.decoders import Crops, Decoder
from pipelines.decoders.build import build_decoder
from pipelines.evaluation import CenterCrop, evaluation_batches
from pipelines.loader import Loader
from pipelines.mixtures.image_mixture import ImageMixture
from pipelines.mixtures.unmix import UnMix
from pipelines.presets import PRESETS
from pipelines.rng import RowRng
from pipelines.sampler import Sampler
from pipelines.settings import ImConfig
from pipelines.sources.folder import scan
from pipelines.sources.table import Table
from pipelines.step_maker import StepMaker
from pipelines.views import ViewPlan

CPU = torch.device("cpu")
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
LOADERS = ("memory", "ffcv", "dali")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty smooth 40x40 images in two classes."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(40):
        small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
        path = root / f"class{i % 2}" / f"{i:02}.jpg"
        path.parent.mkdir(exist_ok=True)
        small.resize((40, 40), Image.Resampling.BICUBIC).save(path, quality=95)
    return root


@pytest.fixture(scope="module")
def table(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Table:
    return scan(folder, tmp_path_factory.mktemp("cache"), "stop")


@pytest.fixture
def decoders(
    table: Table, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Decoder]]:
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path))
    made: dict[str, Decoder] = {}
    for name in LOADERS:
        package = {"ffcv": "ffcv", "dali": "nvidia.dali"}.get(name)
        if package:
            pytest.importorskip(package)
        rows = cached_beton(table, f"folder:{folder}") if name == "ffcv" else table
        made[name] = build_decoder(
            name, rows, interpolation="antialias", workers=2, device=CPU, on_bad="stop"
        )
    yield made
    for decoder in made.values():
        decoder.close()


def loader(table: Table, decoder: Decoder, order: Sampler, **options: object) -> Loader:
    views = options.pop("views", PRESETS["moco-v2"](24))
    return Loader(StepMaker(table, order, ViewPlan(views), decoder, MEAN, STD, CPU, **options))


def rows_of(batches: Sequence[Batch]) -> dict[tuple[int, int], list[torch.Tensor]]:
    return {
        (batch.step, int(row)): [view[i] for view in batch.views]
        for batch in batches
        for i, row in enumerate(batch.index)
    }


def test_every_loader_gives_the_same_views(table: Table, decoders: dict[str, Decoder]) -> None:
    order = Sampler(len(table), 10, seed=3)
    views = {n: rows_of(list(loader(table, d, order).batches(0, 4))) for n, d in decoders.items()}
    for name in LOADERS[1:]:
        assert views[name].keys() == views["memory"].keys()
        for row, expected in views["memory"].items():
            for a, b in zip(views[name][row], expected, strict=True):
                # 2 grey levels on average, which colour jitter may stretch by (1.4)^3
                assert (a - b).abs().mean() * 0.25 * 255 < 2 * 1.4**3


@pytest.mark.parametrize("world_size", [2, 4])
def test_a_row_s_views_do_not_depend_on_world_size(
    table: Table, decoders: dict[str, Decoder], world_size: int
) -> None:
    decoder = decoders["memory"]
    whole = rows_of(list(loader(table, decoder, Sampler(len(table), 8, 1)).batches(0, 10)))
    for rank in range(world_size):
        order = Sampler(len(table), 8, 1, rank, world_size)
        for row, views in rows_of(list(loader(table, decoder, order).batches(0, 10))).items():
            for a, b in zip(views, whole[row], strict=True):
                torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_a_row_s_views_do_not_depend_on_batch_size(
    table: Table, decoders: dict[str, Decoder]
) -> None:
    def epoch(batch: int) -> dict[int, list[torch.Tensor]]:
        order = Sampler(len(table), batch, 1)
        batches = loader(table, decoders["memory"], order).batches(0, order.steps_per_epoch)
        return {row: views for (_, row), views in rows_of(list(batches)).items()}

    small, large = epoch(8), epoch(20)
    assert small.keys() == large.keys() == set(range(40))
    for row in small:
        for a, b in zip(small[row], large[row], strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", LOADERS)
def test_any_range_of_steps_continues_exactly(
    table: Table, decoders: dict[str, Decoder], name: str
) -> None:
    made = loader(table, decoders[name], Sampler(len(table), 8, 1), mixture=UnMix(0.5), groups=2)
    straight = list(made.batches(0, 9))
    resumed = [*made.batches(0, 4), *made.batches(4, 9)]
    assert [batch.step for batch in resumed] == list(range(9))
    for a, b in zip(straight, resumed, strict=True):
        assert torch.equal(a.index, b.index) and torch.equal(a.label, b.label)
        assert all(torch.equal(x, y) for x, y in zip(a.views, b.views, strict=True))
        assert torch.equal(a.mixed[0].image, b.mixed[0].image)


def test_labels_and_positions_follow_the_rows(table: Table, decoders: dict[str, Decoder]) -> None:
    order = Sampler(len(table), 8, 2, rank=1, world_size=2)
    for batch in loader(table, decoders["memory"], order).batches(0, 5):
        np.testing.assert_array_equal(batch.label, table.label[batch.index.numpy()])
        np.testing.assert_array_equal(batch.position, [4, 5, 6, 7])


def test_views_are_finished_with_their_own_draws(
    table: Table, decoders: dict[str, Decoder]
) -> None:
    order, views = Sampler(len(table), 10, seed=3), PRESETS["byol"](24)
    (batch,) = loader(table, decoders["memory"], order, views=views, workers=2).batches(5, 6)
    rows, draws = order.rows(5), RowRng(3, order.epoch(5))
    for number, view in enumerate(views):
        drawn = draw_params(view, number, draws, rows, table.height[rows], table.width[rows])
        (crops,) = decoders["memory"](rows, [Crops(24, np.arange(10), drawn.box)])
        expected = augment(crops, plan(view, drawn), MEAN, STD)
        torch.testing.assert_close(batch.views[number], expected, atol=1e-4, rtol=0)


def test_an_image_is_decoded_once_whatever_the_views(
    table: Table, decoders: dict[str, Decoder]
) -> None:
    for name in ("ffcv", "dali"):
        before = decoders[name].decodes
        made = loader(table, decoders[name], Sampler(len(table), 10, 0), views=PRESETS["swav"](24))
        batches = list(made.batches(0, 4))
        assert len(batches[0].views) == 8
        assert decoders[name].decodes - before == 40


def test_mixtures_are_made_of_the_batch_s_views(table: Table, decoders: dict[str, Decoder]) -> None:
    made = loader(
        table, decoders["memory"], Sampler(len(table), 8, 1), mixture=UnMix(1.0), groups=2
    )
    for batch in made.batches(0, 3):
        (mixed,) = batch.mixed
        view, lam = batch.views[0], mixed.lam.view(-1, 1, 1, 1)
        expected = lam * view + (1 - lam) * view[[3, 2, 1, 0, 7, 6, 5, 4]]
        torch.testing.assert_close(mixed.image, expected)


class Failing:
    """A decoder that fails at its second call."""

    decodes = replaced = calls = 0
    bad_rows: set[int] = set()  # noqa: RUF012 - it stays empty

    def __call__(self, rows: np.ndarray, crops: Sequence[Crops]) -> list[torch.Tensor]:
        self.calls += 1
        if self.calls == 2:
            raise OSError("the disk is gone")
        return [torch.zeros(len(c.box), c.size, c.size, 3, dtype=torch.uint8) for c in crops]

    def close(self) -> None:
        pass


@pytest.mark.parametrize("partner", ["group", "dataset"])
def test_label_free_mixtures_are_the_same_for_any_loader_and_world_size(
    table: Table, decoders: dict[str, Decoder], partner: Literal["group", "dataset"]
) -> None:
    config = ImConfig(g_prob=0.5, r_prob=0.5, partner=partner)
    options: dict[str, Any] = {"mixture": ImageMixture("im", config), "groups": 2}
    plain = rows_of(list(loader(table, decoders["memory"], Sampler(40, 8, 3)).batches(0, 3)))
    for name in LOADERS:
        whole = list(loader(table, decoders[name], Sampler(40, 8, 3), **options).batches(0, 3))
        expected = rows_of(whole)
        assert all(not batch.mixed and len(batch.views[0]) == 8 for batch in whole)
        changed = [not torch.allclose(expected[key][0], plain[key][0], atol=0.3) for key in plain]
        assert 0.3 < np.mean(changed) < 1
        shares = [loader(table, decoders[name], Sampler(40, 8, 3, r, 2), **options) for r in (0, 1)]
        found = rows_of([batch for share in shares for batch in share.batches(0, 3)])
        assert expected.keys() == found.keys()
        for key, views in expected.items():
            assert all(map(torch.equal, views, found[key]))


def test_a_failure_in_the_background_reaches_the_loop(table: Table) -> None:
    seen = []
    with pytest.raises(OSError, match="the disk is gone"):
        for batch in loader(table, Failing(), Sampler(len(table), 8, 0)).batches(0, 5):
            seen.append(batch.step)
    assert seen == [0]


def test_groups_that_do_not_fit_are_refused(table: Table) -> None:
    order = Sampler(len(table), 8, 0)
    with pytest.raises(ValueError, match="--groups"):
        loader(table, Failing(), order, mixture=UnMix(0.5), groups=3)
    with pytest.raises(ValueError, match="pairs"):
        loader(table, Failing(), order, mixture=UnMix(0.5), groups=8)


@pytest.mark.parametrize("name", LOADERS)
def test_evaluation_sees_each_row_once_and_nothing_random(
    table: Table, decoders: dict[str, Decoder], name: str
) -> None:
    def sweep(rank: int, world_size: int) -> list[tuple[torch.Tensor, np.ndarray]]:
        batches = evaluation_batches(
            table, decoders[name], CenterCrop(32, 40, MEAN, STD), 7, CPU, rank, world_size
        )
        return list(batches)

    rows = np.concatenate([rows for rank in range(3) for _, rows in sweep(rank, 3)])
    np.testing.assert_array_equal(rows, np.arange(len(table)))
    images, again = (torch.cat([x for x, _ in sweep(0, 1)]) for _ in range(2))
    assert torch.equal(images, again)
    pixels = np.stack([table.source.pixels(row)[4:36, 4:36] for row in range(len(table))])
    expected = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    assert ((images - expected).abs().mean((1, 2, 3)) * 0.25 * 255).max() < 2
