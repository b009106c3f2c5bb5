"""The papers' figures: each shows the right numbers, and each is one command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from compare_cases import write_run
from PIL import Image
from runs import SMALL, TINY, run_main, run_train
from toy_cases import toy_images

from tools import figures
from tools.analysis import embedding, histories, nearest, weights
from tools.plots import style
from tools.scoring import flatness

RNG = np.random.default_rng(0)


def train_in(folder: Path, data: Path, name: str, *more: str, method: str = "simclr") -> Path:
    flags = (*TINY, *SMALL[method], "--method", method, "--data", f"folder:{data}")
    assert run_train(*flags, "--epochs", "2", "--output", str(folder), "--name", name, *more) == 0
    return folder / name


@pytest.fixture(scope="module")
def runs(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two scored runs that differ in the mixture."""
    out = tmp_path_factory.mktemp("runs")
    a = train_in(out, toy, "plain", "--knn-every", "1")
    return a, train_in(out, toy, "mixed", "--knn-every", "1", "--mix", "region", "--epochs", "1")


# --- laws --------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [2, 7, 512])
def test_flatness_of_even_and_single_values(d: int) -> None:
    even, single = np.full((1, d), 0.3, np.float32), np.eye(1, d, dtype=np.float32)
    shares = flatness.as_shares(np.concatenate([even, single, 0 * even]))
    np.testing.assert_allclose(flatness.entropy(shares), [1, 0, 1], atol=1e-9)
    np.testing.assert_allclose(shares.max(axis=1), [1 / d, 1, 1 / d], rtol=1e-6)


def test_flatness_does_not_depend_on_the_scale() -> None:
    rows = RNG.random((5, 30), np.float32)
    a, b = flatness.as_shares(rows), flatness.as_shares(20 * rows)
    np.testing.assert_allclose(a, b, rtol=1e-5)
    np.testing.assert_allclose(a.sum(axis=1), 1)


def test_the_mean_entropy_is_that_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flatness, "ROWS", 2)
    rows = RNG.random((5, 30), np.float32)
    whole = flatness.entropy(flatness.as_shares(rows)).mean()
    assert flatness.mean_entropy(torch.from_numpy(rows)) == pytest.approx(whole)


@pytest.mark.parametrize("size", [1, 9, 5000])
def test_a_histogram_counts_every_weight_once(size: int) -> None:
    layer = RNG.standard_t(1, size).astype(np.float32)  # with far ones beyond the edges
    edges = weights.edges_of([layer, 2 * layer])
    counts, density = weights.histogram(layer, edges)
    assert counts.sum() == size
    assert (density * np.diff(edges)).sum() == pytest.approx(1)


def test_layers_are_spread_over_the_network() -> None:
    names = [f"layer{i}" for i in range(10)]
    assert weights.choose(names, (), 4) == ["layer0", "layer3", "layer6", "layer9"]
    assert weights.choose(names, (), 99) == names
    with pytest.raises(ValueError, match="--layers layer99: no such layer; nearest: layer9"):
        weights.choose(names, ("layer99",), 4)


def test_neighbours_are_the_most_similar_rows_in_order() -> None:
    rows = RNG.standard_normal((40, 6)).astype(np.float32)
    own = np.array([3, 30])
    near = nearest.nearest(rows[own], rows, 39, own)
    for i, query in enumerate(own):
        cosine = [r @ rows[query] / np.linalg.norm(r) / np.linalg.norm(rows[query]) for r in rows]
        others = sorted((j for j in range(40) if j != query), key=lambda j: -cosine[j])
        assert near.index[i].tolist() == others
        np.testing.assert_allclose(near.similarity[i], np.take(cosine, others), atol=1e-5)
    with pytest.raises(ValueError, match="--k 40 must be between 1 and the 39"):
        nearest.nearest(rows[own], rows, 40, own)


def test_neighbours_are_right_wrong_or_unknown() -> None:
    near = nearest.Neighbors(np.array([[0, 1, 2], [2, 1, 0]]), np.zeros((2, 3), np.float32))
    marks = nearest.same_class(near, np.array([5, -1]), np.array([5, 4, -1]))
    assert marks.tolist() == [[1, 0, -1], [-1, -1, -1]]
    assert nearest.describe(marks).startswith("50.0%")


def test_the_main_axes_hold_the_most_variance() -> None:
    rows = RNG.standard_normal((60, 8)).astype(np.float32) * np.arange(1, 9)
    places, share = embedding.principal(rows)
    centred = embedding.unit(rows) - embedding.unit(rows).mean(axis=0)
    values = np.linalg.svd(centred, compute_uv=False) ** 2
    assert share == pytest.approx(values[:2].sum() / values.sum(), rel=1e-4)
    np.testing.assert_allclose((places**2).sum(axis=0), values[:2], rtol=1e-4)


def test_every_series_looks_different() -> None:
    looks = [style.look(number) for number in range(style.NUM_LOOKS)]
    assert len(set(looks)) == style.NUM_LOOKS


def test_hours_are_images_over_speed() -> None:
    lines = [
        {"step": 0, "images_per_second": None},
        {"step": 10, "images_per_second": None},  # the speed of the next line
        {"step": 20, "images_per_second": 100.0},
        {"step": 30, "images_per_second": 50.0},
        {"step": 40, "images_per_second": None},  # of the last
    ]
    seconds = [3600 * value for value in histories.hours(lines, 30)]
    assert seconds == pytest.approx([0, 3, 6, 12, 18])


# --- commands ----------------------------------------------------------------------------------


def test_a_mean_is_taken_at_the_steps_that_all_seeds_have(tmp_path: Path) -> None:
    scores = {0: {100: 0.5, 200: 0.7}, 1: {100: 0.6, 200: 0.8, 300: 0.9}}
    runs = []
    for seed, known in scores.items():
        folder = write_run(tmp_path, f"run-{seed}", seed=seed)
        lines = [{"step": s, "epoch": s / 10, "knn_top1": v, "loss": v} for s, v in known.items()]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        runs.append(histories.read(folder))
    loss, knn = histories.curve_panels(runs, mean=True)
    (band,) = knn.series
    x, y = band.points
    assert band.name == "simclr, 2 seeds" and band.kind == "band"
    assert x == pytest.approx([10, 20]) and y == pytest.approx([55, 75])
    deviation = 10 / np.sqrt(2)  # of two values 10 apart, with n - 1
    reach = [-deviation, deviation]
    np.testing.assert_allclose(band.spread, np.add.outer([55, 75], reach))
    assert loss.series[0].points[1] == pytest.approx([0.55, 0.75])


def test_a_budget_joins_means_over_seeds(tmp_path: Path) -> None:
    """Not two seeds whose hours differ by chance."""
    runs = []
    for epochs, seed, speed, value in ((2, 0, 100, 0.5), (2, 1, 50, 0.6), (4, 0, 100, 0.8)):
        run = write_run(tmp_path, f"{epochs}-{seed}", epochs=epochs, seed=seed, batch_size=36)
        line = {"step": 5000 * epochs, "epoch": epochs, "images_per_second": speed}
        (run / "metrics.jsonl").write_text(json.dumps(line | {"knn_top1": value}) + "\n")
        runs.append(histories.read(run))
    scores = histories.scores_of(runs, "online", None)
    seeds, means = histories.budget_panel(runs, scores, "hours").series
    assert seeds.kind == "points" and list(seeds.points[0]) == pytest.approx([1, 2, 2])
    np.testing.assert_allclose(means.points, [[1.5, 2], [55, 80]])


def is_drawn(path: Path) -> bool:
    if path.suffix != ".png":
        return path.stat().st_size > 2000
    pixels = np.asarray(Image.open(path).convert("L"))
    return bool(min(pixels.shape) > 300 and pixels.std() > 5)


CASES = {
    "flatness": ("--num", "4"),
    "weights": ("--untrained",),
    "tsne": (),
    "curves": ("--x", "hours", "--mean"),
    "budget": ("--x", "images"),
    "neighbours": ("--k", "3", "--rows", "0", "5"),
}


@pytest.mark.parametrize(
    ("name", "suffix"), list(zip(CASES, (".png", ".pdf", ".svg") * 2, strict=True))
)
def test_each_figure_is_drawn(
    runs: tuple[Path, Path], name: str, suffix: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / f"figure{suffix}"
    flags = [str(runs[0]), "--run", str(runs[1])]
    assert run_main(figures.main, name, *flags, *CASES[name], "--output", str(out)) == 0
    assert is_drawn(out)
    said = capsys.readouterr().out
    assert str(out) in said
    if name in ("flatness", "neighbours", "budget"):
        assert "plain" in said and "mixed" in said


def test_without_labels_and_validation_a_map_is_gray(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy_images(tmp_path, "train", 20)
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate((tmp_path / "train").rglob("*.jpg")):
        path.rename(flat / f"{number}.jpg")
    run = train_in(tmp_path, flat, "bare", "--epochs", "1")
    assert run_main(figures.main, "tsne", "--run", str(run)) == 0
    said = capsys.readouterr().out
    assert "not coloured" in said and "training images" in said
    assert is_drawn(run / "tsne.png")
    assert run_main(figures.main, "budget", "--run", str(run)) == 2
    assert "has no score by online: train with --knn-every" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("weights", "--run", "nowhere"), "nowhere: there is no such run"),
        (("weights", "nowhere"), "nowhere: there is no such run"),
        (("curves", "--run", "."), ". is not the folder of a run"),
        (("curves",), "name a run"),
        (("curves", "--run", "RUN", "--output", "x.gif"), "must end in .png, .pdf, .svg"),
        (("curves", "--run", "RUN", "--output", "no/x.png"), "there is no folder"),
        (("weights", "--run", "RUN", "--layers", "conv9"), "--layers conv9: no such layer"),
        (("flatness", "--run", "RUN", "--num", "0"), "--num 0 must be at least 1"),
        (("neighbours", "--run", "RUN", "--rows", "12"), "--rows 12 must be between 0 and 11"),
        (("neighbours", "--run", "RUN", "--k", "99"), "--k 99 must be between 1 and the 40"),
        (("budget", "--run", "RUN", "--protocol", "linear"), "eval.py linear RUN"),
        (("flatness", "RUN/config.yaml"), "is a file, and this needs the folder of a run"),
    ],
)
def test_errors_name_the_flag(
    runs: tuple[Path, Path], words: tuple[str, ...], said: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run_main(figures.main, *(w.replace("RUN", str(runs[0])) for w in words)) == 2
    captured = capsys.readouterr()
    assert said in captured.err + captured.out and "Traceback" not in captured.err


def test_runs_of_other_data_and_runs_without_a_checkpoint(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy_images(tmp_path / "else", "train", 20)
    other = train_in(tmp_path, tmp_path / "else", "other", "--epochs", "1")
    assert run_main(figures.main, "tsne", "--run", str(runs[0]), "--run", str(other)) == 2
    assert "needs runs of the same data" in capsys.readouterr().err
    for path in (other / "checkpoints").iterdir():
        path.unlink()
    assert run_main(figures.main, "weights", "--run", str(other)) == 2
    assert f"{other}: no checkpoint" in capsys.readouterr().err
