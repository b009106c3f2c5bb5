"""The loader benchmark on a few tiny images: its keys, its arithmetic, optional contenders."""

import json
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.decoders import MissingPackage
from pipelines.sources.stored import InFiles
from tools import write_ffcv
from tools.benchmarks import harness, loaders
from tools.benchmarks.contenders import CONTENDERS, mirror
from tools.benchmarks.harness import images_per_second
from tools.benchmarks.loaders import Arguments, prepare, ratios, views
from tools.benchmarks.torch_loader import Images
from tools.benchmarks.torchvision_views import each_view, torchvision_view

pytest.importorskip("ffcv")
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # numba's
TINY = [
    "--workers",
    "1",
    "--repeats",
    "2",
    "--seconds",
    "0.02",
    "--batch-size",
    "8",
    "--size",
    "16",
]


def run(toy: Path, tmp_path: Path, *options: str) -> dict:
    out = tmp_path / "out.json"
    assert loaders.main(["--data", f"folder:{toy}", "--json", str(out), *TINY, *options]) == 0
    return json.loads(out.read_text())


def test_crops(toy, tmp_path, capsys):
    found = run(toy, tmp_path, "--cases", "two", "--loaders", "decode-only", "ffcv", "memory",
                "lightly")  # fmt: skip
    assert set(found["images_per_second"]) == set(found["spread"]) == {"two"}
    rates, spread = found["images_per_second"]["two"], found["spread"]["two"]
    assert list(rates) == list(spread) == ["decode-only", "ffcv", "memory"]
    assert all(0 < spread[name][0] <= rate <= spread[name][1] for name, rate in rates.items())
    assert found["ratios"] == {
        "two_views_vs_stock_ffcv": None,
        "two_views_vs_decode_ceiling": rates["ffcv"] / rates["decode-only"],
        "multicrop_vs_stock_ffcv": None,
        "moco_v2_vs_torchvision": None,
        "two_views_vs_spdl": None,
        "multicrop_vs_spdl": None,
        "moco_v2_vs_best_opponent": None,
    }
    assert "lightly" in found["left_out"]["two"]
    assert found["setting"]["images"] == 40
    assert {"cpu", "cores", "versions", "load"} <= set(found["machine"])
    assert found["command"].startswith("python tools/bench.py loaders --data")
    assert found["page_cache"]
    shown = capsys.readouterr().out
    assert "page cache" in shown
    assert "left out: lightly" in shown


def test_complete_augmentation(toy, tmp_path):
    found = run(toy, tmp_path, "--cases", "moco-v2", "--loaders", "ffcv", "stock-ffcv",
                "torchvision")  # fmt: skip
    rates = found["images_per_second"]["moco-v2"]
    assert found["ratios"]["moco_v2_vs_torchvision"] == rates["ffcv"] / rates["torchvision"]
    assert "blur" in found["left_out"]["moco-v2"]["stock-ffcv"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """Images of one grey each, so that every crop of an image has the image's mean."""
    root = tmp_path_factory.mktemp("plain")
    for grey in range(16, 240, 8):
        Image.new("RGB", (48, 40), (grey, grey, grey)).save(root / f"{grey:03}.jpg")
    return root


@pytest.fixture
def interpreted(monkeypatch):
    """Run the loops of stock FFCV in Python: its compiler takes seconds for each pipeline."""
    from ffcv.pipeline.compiler import Compiler

    monkeypatch.setattr(Compiler, "is_enabled", False)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("case", ["one", "two"])
def test_all_make_the_same_batches(plain, case):
    """As many views, of one size, of the same images in the same order."""
    setting, _ = prepare(Arguments(data=f"folder:{plain}", batch_size=8, size=16, workers=1))
    setting = replace(setting, views=views(case, 16))
    greys = {}
    for name in ("ffcv", "memory", "stock-ffcv"):
        contender = CONTENDERS[name](setting)
        batches = [
            [torch.as_tensor(view).numpy().copy() for view in batch] for batch in contender.run(3)
        ]
        contender.close()
        assert [len(batch) for batch in batches] == [len(setting.views)] * 3
        assert all(view.shape == (8, 16, 16, 3) for view in batches[0])
        greys[name] = np.array(batches).mean(axis=(3, 4, 5))
    transforms = [torchvision_view(v, "antialias", (), ()) for v in setting.views]
    images = Images(setting.table, partial(each_view, transforms=transforms))
    rows = [setting.order.rows(step).tolist() for step in range(3)]
    made = [[torch.stack(images[row]).numpy() for row in batch] for batch in rows]
    assert made[0][0].shape == (len(setting.views), 3, 16, 16)
    greys["torchvision"] = np.array(made).mean(axis=(3, 4, 5)).transpose(0, 2, 1)
    for name, found in greys.items():
        np.testing.assert_allclose(found, greys["ffcv"], atol=2, err_msg=name)


def test_a_beton_takes_part_as_it_is(toy, tmp_path):
    """Worker processes are sent its table, although ours have mapped the file by then."""
    path = tmp_path / "toy.beton"
    assert write_ffcv.main([str(toy), str(path), "--keep-jpeg"]) == 0
    out = tmp_path / "out.json"
    flags = ["--data", str(path), "--cases", "two", "--loaders", "ffcv", "memory", "torchvision"]
    assert loaders.main([*flags, "--json", str(out), *TINY]) == 0
    found = json.loads(out.read_text())
    assert set(found["images_per_second"]["two"]) == {"ffcv", "memory", "torchvision"}


@pytest.mark.parametrize("name", ["ffcv", "decode-only"])
def test_rows_are_held_while_they_are_decoded(toy, monkeypatch, name):
    """Those of a remote file are there only inside."""
    setting, _ = prepare(Arguments(data=f"folder:{toy}", batch_size=8, size=16, workers=1))
    held: list[list[int]] = []

    @contextmanager
    def hold(source, rows):
        held.append(rows.tolist())
        yield
        held.pop()

    monkeypatch.setattr(InFiles, "held", hold)
    contender = CONTENDERS[name](replace(setting, views=views("two", 16)))
    decoder, seen = contender.decoder, []

    def decode(rows, windows):
        seen.append(held[-1] == rows.tolist())
        return decoder(rows, windows)

    contender.decoder = decode
    assert len(list(contender.run(3))) == 3
    assert seen == [True] * 3
    assert held == []
    contender.decoder = decoder
    contender.close()


def test_stock_ffcv_is_left_out_where_there_is_no_single_local_beton(toy):
    setting, _ = prepare(Arguments(data=f"folder:{toy}", batch_size=8, size=16, workers=1))
    with pytest.raises(ValueError, match="single"):
        CONTENDERS["stock-ffcv"](replace(setting, beton=setting.table))


def test_the_case_decides_the_views():
    assert [len(views(case, 224)) for case in ("one", "two", "moco-v2", "multicrop")] == [
        1,
        2,
        2,
        8,
    ]
    assert [view.size for view in views("multicrop", 224)] == [224] * 2 + [96] * 6
    assert all(v.flip == 0.5 and not (v.blur or v.gray or v.jitter_prob) for v in views("two", 224))
    assert all(view.blur == 0.5 and view.jitter_prob == 0.8 for view in views("moco-v2", 224))


def test_only_the_steady_part_counts(monkeypatch):
    clock = [0.0]

    class Slow:
        warm, tail = 3, 2
        made = 0

        def run(self, steps):
            for step in range(steps):
                clock[0] += 100.0 if step < 3 or step >= 7 else 0.5
                self.made += 1
                yield step

    monkeypatch.setattr(harness.time, "perf_counter", lambda: clock[0])
    slow = Slow()
    assert images_per_second(slow, 4, 8) == 4 * 8 / 2.0
    assert slow.made == 9


def test_mirror_flips_the_rows_it_is_given():
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 5, 3)).astype(np.uint8)
    before = images.copy()
    mirror(images, np.array([0, 2]))
    np.testing.assert_array_equal(images[[0, 2]], before[[0, 2], :, ::-1])
    np.testing.assert_array_equal(images[1], before[1])


def test_without_ffcv_its_rows_are_left_out_by_name(toy, monkeypatch):
    monkeypatch.setattr(loaders, "is_installed", lambda name: False)
    setting, _ = prepare(Arguments(data=f"folder:{toy}", batch_size=8, size=16, workers=1))
    for name in ("decode-only", "ffcv", "stock-ffcv"):
        with pytest.raises(MissingPackage, match="ffcv"):
            CONTENDERS[name](setting)


def test_ratios_of_what_was_not_measured_are_none():
    assert set(ratios({}).values()) == {None}
    some = ratios({"two": {"ffcv": 6.0, "stock-ffcv": 2.0}})
    assert some["two_views_vs_stock_ffcv"] == 3.0
    assert some["two_views_vs_decode_ceiling"] is None


def test_wrong_options_are_refused():
    for wrong in ({"repeats": 0}, {"workers": 9999}, {"images": 4}, {"loaders": ("x",)}):
        with pytest.raises(ValueError, match=f"--{next(iter(wrong))}"):
            Arguments(data="photos", batch_size=8, **wrong)
