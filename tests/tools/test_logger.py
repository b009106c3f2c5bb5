"""The log of a run, and its throughput."""

import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from rich.console import Console
from runs import lines, reset_accelerate

from pipelines.batch import Batch, Mixed
from pipelines.views import View
from tools.engine.logger import RunLogger
from tools.engine.throughput import ThroughputMeter
from tools.plots import curves
from tools.plots.views import LINE_SPACE, caption, draw_views, with_structure


def record(
    folder: Path, start: int = 0, clock: Callable[[], float] = lambda: 0.0
) -> tuple[RunLogger, io.StringIO]:
    reset_accelerate()
    text = io.StringIO()
    console = Console(file=text, force_terminal=False)
    made = RunLogger(
        folder, Accelerator(cpu=True), total_steps=8, steps_per_epoch=2, start_step=start,
        console=console, clock=clock,
    )  # fmt: skip
    return made, text


def write(folder: Path, start: int, stop: int, loss: float = 1.0) -> str:
    made, text = record(folder, start)
    for step in range(start + 1, stop + 1):
        made.log(step, {"loss": loss * step, "lr": 0.1, "images_per_second": 10.0 * step})
        if step % 2 == 0:
            made.epoch(step)
    made.close()
    return text.getvalue()


def test_lines_hold_step_epoch_and_world_size(tmp_path: Path) -> None:
    said = write(tmp_path, 0, 3)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
    assert [line["epoch"] for line in lines(tmp_path)] == [0.5, 1.0, 1.5]
    assert all(line["world_size"] == 1 for line in lines(tmp_path))
    assert len(said.splitlines()) == 3 and "loss 2.0000" in said


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    made, text = record(tmp_path)
    made.log(1, {"loss": math.nan, "lr": math.inf, "knn_top1": 0.5})
    made.close()
    (line,) = lines(tmp_path)
    assert line["loss"] is None and line["lr"] is None and line["knn_top1"] == 0.5
    assert "nan" not in text.getvalue() and "kNN top-1 50.0%" in text.getvalue()


def test_a_resumed_record_equals_the_straight_one(tmp_path: Path) -> None:
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
    write(tmp_path / "straight", 0, 8)
    write(tmp_path / "killed", 0, 5, loss=1.0)
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # killed while it wrote
    write(tmp_path / "killed", 3, 8)
    for file in ("metrics.jsonl", "summary.csv"):
        a, b = ((tmp_path / name / file).read_text() for name in ("straight", "killed"))
        assert a == b
    rows = (tmp_path / "straight" / "summary.csv").read_text().splitlines()
    assert rows[0] == "epoch,step,loss,lr,images_per_second,knn_top1"
    assert rows[1] == "1,2,1.5,0.1,15.0," and len(rows) == 5


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_step_belongs_to_the_epoch_that_it_ends(tmp_path: Path) -> None:
    """Epochs have two steps."""
    said = write(tmp_path, 0, 8).splitlines()
    epochs = [line.split()[1] for line in said]
    assert epochs == [f"{epoch}/4" for epoch in (1, 1, 2, 2, 3, 3, 4, 4)]


def test_a_line_appears_at_least_each_half_minute(tmp_path: Path) -> None:
    """Where there is no bar; it needs no number from the device."""
    clock = Clock()
    made, text = record(tmp_path, clock=clock)
    made.show(1, {"loss": 2.0})
    for step in (2, 3, 4, 5):
        clock.now += 11
        made.tick(step)
    clock.now += 29
    made.log(6, {"loss": 1.0})
    made.tick(6)
    clock.now += 29
    made.tick(7)
    made.close()
    said = [line.split("  ")[:3] for line in text.getvalue().splitlines()]
    assert [line[1] for line in said] == ["step 1/8", "step 4/8", "step 6/8"]
    assert [line[2][:4] for line in said] == ["loss", "ETA ", "loss"]
    assert [line["step"] for line in lines(tmp_path)] == [6]


def test_the_meter_leaves_out_warm_up_and_pauses() -> None:
    clock, waited = Clock(), Clock()
    meter = ThroughputMeter(32, waited, torch.device("cpu"), warmup=1, clock=clock)
    clock.now += 100  # compiling
    meter.step()
    for _ in range(4):
        clock.now += 0.5
        waited.now += 0.1
        meter.step()
    with meter.paused():
        clock.now += 50
        waited.now += 7
    assert meter.read() == pytest.approx({"images_per_second": 64, "data_wait": 0.2})
    assert all(math.isnan(value) for value in meter.read().values())


def batch(views: int, size: int) -> Batch:
    n = 4
    images = tuple(torch.rand(n, 3, size if v < 2 else size // 2, size if v < 2 else size // 2)
                   for v in range(views))  # fmt: skip
    rows = torch.arange(n)
    mixed = Mixed(0, images[0], rows.flip(0), torch.linspace(0, 1, n))
    return Batch(images, rows, rows, rows, 0, 0, (mixed,))


@pytest.mark.parametrize(("views", "size"), [(2, 16), (8, 224)])
def test_views_are_drawn(tmp_path: Path, views: int, size: int) -> None:
    path = tmp_path / "views.png"
    draw_views(batch(views, size), (0.5,) * 3, (0.25,) * 3, path)
    with Image.open(path) as image:
        assert image.width > views * 60 and image.height > 4 * 100
        assert len(image.convert("L").getcolors()) > 50


def test_views_with_structure_are_drawn_and_their_numbers_named(tmp_path: Path) -> None:
    images = torch.zeros(40, 3, 16, 16)
    textured = [3, 4, 8, 17, 18, 20, 30, 31, 35, 39]  # the quarter that counts
    images[textured] = torch.rand(10, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images[9, :, :8] = 5.0  # large, but flat inside the patches
    assert set(with_structure(images, 5).tolist()) < set(textured)
    assert with_structure(images, 5).tolist() == sorted(with_structure(images, 5).tolist())
    assert len(with_structure(images, 50)) == 40 and len(with_structure(images[:1], 8)) == 1
    partner = torch.arange(40).roll(1)  # only 4, 18 and 31 have a partner with structure
    assert {4, 18, 31} <= set(with_structure(images, 10, partner).tolist())
    view = View(16, rotate90=1.0, blur=0.5, gray=0.0)
    assert caption(view) == [
        *("crop .2 1", "flip .5", "rotate90 1", "jitter .8", ".4 .4 .4 .1"),
        *("blur .5", "sigma .1 2"),
    ]
    sides = {}
    for name, views in (("plain", ()), ("named", (view, view))):
        draw_views(batch(2, 16), (0.5,) * 3, (0.25,) * 3, tmp_path / f"{name}.png", views=views)
        with Image.open(tmp_path / f"{name}.png") as image:
            sides[name] = image.size
    assert sides["named"] == (sides["plain"][0], sides["plain"][1] + 7 * LINE_SPACE)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_curves_are_drawn_from_any_record(tmp_path: Path, count: int) -> None:
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step in range(count):
            line = {"step": step, "loss": 5.0 - step, "mixed": 1.0, "lr": 0.1, "knn_top1": None}
            file.write(json.dumps(line) + "\n")
    curves.draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > 300 and image.height > 200
