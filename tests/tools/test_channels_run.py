"""tools.config.pixels and in_chans from train.py to the scores and the exports."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import yaml
from PIL import Image
from runs import SMALL, TINY, run_main, run_train

import eval as evaluate
from models.modules.backbone import create_backbone
from pipelines.data_facts import IMAGENET
from pipelines.sources.arrays import Arrays
from pipelines.sources.table import Table
from tools.config.cli import from_dict, from_saved, parse
from tools.config.config import Config
from tools.config.pixels import describe_channels, facts_of
from tools.config.preflight import preflight
from tools.config.resolve import resolve
from tools.engine import build, dry_run
from tools.engine.data import Data
from tools.evaluation.detection.backbone import open_backbone
from tools.evaluation.linear import Linear
from tools.exporting import detectron2, huggingface, onnx, timm, torchvision
from tools.exporting.source import Source
from tools.plots.thumbnails import shown


def labelled(root: Path, channels: int) -> Path:
    """Two classes of images of 20 px, which differ in their last band."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 4)):
        for label in range(2):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 200, (20, 20, channels), np.uint8)
                image[..., -1] = 40 + 150 * label
                if channels == 1:
                    Image.fromarray(image[..., 0]).save(folder / f"{i}.png")
                else:
                    kind: Any = {"photometric": "minisblack", "planarconfig": "contig"}
                    tifffile.imwrite(folder / f"{i}.tif", image, **kind)
    return root


@pytest.mark.parametrize("channels", [1, 5])
def test_a_run_trains_resumes_and_is_scored(channels: int, tmp_path: Path) -> None:
    data = labelled(tmp_path / "data", channels)
    flags = ("--method", "moco", *SMALL["moco"], *TINY, "--data", f"folder:{data}")
    flags += ("--mix", "unmix", "--in-chans", str(channels), "--normalize", "data")
    flags += ("--output", str(tmp_path), "--name", "run", "--epochs", "5")
    assert run_train(*flags, "--limit-steps", "4", pictures=True) == 0
    assert run_train(*flags, "--resume", "auto") == 0  # --normalize data gives the same numbers
    run = tmp_path / "run"
    config, state = build.load_run(run)
    assert (config.in_chans, state["step"]) == (channels, 10)
    assert len(config.mean) == len(config.std) == channels and max(config.mean) < 1
    assert state["method"]["backbone.conv1.0.weight"].shape[1] == channels
    assert (
        facts_of(config).mean
        == config.mean
        == tuple(yaml.safe_load((run / "config.yaml").read_text())["mean"])
    )
    with Image.open(run / "views.png") as picture:
        assert picture.mode in ("RGB", "RGBA")
    assert run_main(evaluate.main, "knn", str(run), "--k", "5", "--workers", "1") == 0
    with pytest.raises(ValueError, match=f"run has --in-chans {channels}, and the pictures"):
        open_backbone(run, None, None, "resnet18", 0)
    (line,) = [json.loads(text) for text in (run / "eval.jsonl").read_text().splitlines()]
    assert line["val_images"] == 8 and line["knn_top1"] > 0.5


# --- settings ----------------------------------------------------------------------------------


def test_own_numbers_go_before_the_published_ones() -> None:
    given = ("--mean", "0.1", "0.2", "0.3", "--std", "0.4", "0.5", "0.6", "--data", "cifar10")
    facts = facts_of(parse(given))
    assert (facts.mean, facts.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert facts.image_size == 32


def test_settings_without_numbers_mean_the_published_ones() -> None:
    assert facts_of(from_saved({"method": "moco"}, "an old run")).mean == (0.472, 0.429, 0.411)
    assert facts_of(from_dict({"in_chans": 1, "data": "folder:x"}, "new")).mean == (0.449,)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--mean", "0.5", "0.5", "0.5"), "--mean needs --std"),
        (("--std", "0.5", "0.5", "0.5"), "--std needs --mean"),
        (("--mean", "0.5", "--std", "0.5"), "--mean has 1 values, .* 3 channels"),
        (("--mean", "2", "0", "0", "--std", "1", "1", "1"), "--mean must be at least 0"),
        (("--in-chans", "0"), "--in-chans must be at least 1"),
        (("--in-chans", "5"), "--in-chans 5: no mean and std are published .*--normalize data"),
        (("--in-chans", "1", "--method", "cmc"), "--in-chans 1: --method cmc splits red"),
    ],
)
def test_wrong_numbers_name_their_flag(flags: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        preflight(parse(flags))


def test_a_probe_s_deviation_of_rgb_is_refused_for_other_channels() -> None:
    facts = dataclasses.replace(IMAGENET, mean=(0.5,), std=(0.2,))
    stand_in: Any = SimpleNamespace(facts=facts, print=print)
    probe = Linear(run=Path("run"), std=(0.2, 0.2, 0.2))
    with pytest.raises(ValueError, match=r"--std divides 3 channels, .* have 1: give --std"):
        probe._normalized(stand_in)


# --- exports -----------------------------------------------------------------------------------


def source_of(backbone: str, channels: int, side: int = 32, stem: str = "standard") -> Source:
    torch.manual_seed(0)
    encoder = create_backbone(backbone, side, stem, in_chans=channels).eval().requires_grad_(False)
    settings = {"backbone": backbone, "image_size": side, "stem": stem, "in_chans": channels}
    config = from_dict(settings, "test")
    facts = dataclasses.replace(IMAGENET, mean=(0.5,) * channels, std=(0.2,) * channels)
    return Source(encoder, "online", config, facts, 4, 512, "SwAV. Caron 2020, 2006.09882.")


@pytest.mark.parametrize(
    ("target", "backbone", "out", "channels"),
    [
        (timm, "test_vit", "b.safetensors", 1),
        (timm, "test_vit", "b.safetensors", 5),
        (torchvision, "resnet18", "b.pth", 1),
        (huggingface, "test_resnet", "folder", 1),
        (huggingface, "test_resnet", "folder", 5),
        (onnx, "test_resnet", "b.onnx", 5),
    ],
)
def test_exports_take_the_channels(
    target: ModuleType, backbone: str, out: str, channels: int, tmp_path: Path
) -> None:
    if target in (timm, huggingface):
        pytest.importorskip("safetensors")
    if target is onnx:
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    source = source_of(backbone, channels, 160 if backbone == "test_vit" else 32)
    target.check(source)
    target.write(source, tmp_path / out)
    assert target.verify(source, tmp_path / out) < 1e-4


def test_a_small_stem_of_other_channels_is_exported(tmp_path: Path) -> None:
    source = source_of("resnet18", 1, stem="small")
    torchvision.write(source, tmp_path / "b.pth")
    assert torchvision.verify(source, tmp_path / "b.pth") < 1e-4


def test_tools_for_rgb_alone_refuse_other_channels() -> None:
    with pytest.raises(ValueError, match=r"--to detectron2: .* --in-chans 5; --to timm"):
        detectron2.check(source_of("resnet18", 5))


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_pictures_show_gray_as_gray_and_the_first_three_bands(channels: int) -> None:
    pixels = np.arange(4 * channels, dtype=np.uint8).reshape(2, 2, channels)
    made = shown(pixels)
    wanted = {
        1: pixels[..., [0, 0, 0]],
        2: np.concatenate([pixels, np.zeros((2, 2, 1), np.uint8)], axis=2),
    }
    np.testing.assert_array_equal(made, wanted.get(channels, pixels[..., :3]))


# --- what a run prints -------------------------------------------------------------------------


def test_the_dry_run_foretells_the_decoded_images_the_chosen_loader_first() -> None:
    config = resolve(
        parse(("--method", "moco", "--loader", "dali", "--workers", "4")), IMAGENET, "no"
    )
    side = np.full(100, 2000, np.int32)
    blank = Arrays("camera", np.zeros((100, 1, 1, 3), np.uint8))
    data = Data(Table(np.full(100, -1), side, side, blank), None, IMAGENET)
    text = dry_run.describe_decoding(config, data, torch.device("cpu"), 32)
    first, *lines = text.splitlines()
    assert first == "decoded images, at most, on each process:"
    assert re.match(r"  dali    366\.2 MiB: .* \(this run\)$", lines[0])
    assert [line.split()[:2] for line in lines[1:]] == [["memory", "1,144.4"], ["ffcv", "45.8"]]


@pytest.mark.parametrize(
    ("channels", "words"),
    [(1, "hue and grayscale do nothing"), (2, "are off"), (5, "on the first three"), (3, "")],
)
def test_a_run_says_what_the_channels_change(channels: int, words: str) -> None:
    text = describe_channels(Config(in_chans=channels))
    assert words in text and bool(text) == (channels != 3)
