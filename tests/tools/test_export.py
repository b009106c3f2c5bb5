"""Each export is loaded by its library and gives the run's features."""

import dataclasses
import json
import math
import pickle
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
import tyro
import yaml
from runs import SMALL, TINY, run_main, run_train
from torch import nn

from models.methods import METHODS
from models.methods.base import Setup
from models.methods.build import build_method
from models.modules.backbone import create_backbone
from pipelines.data_facts import IMAGENET, data_facts
from tools import export
from tools.config.cli import differences, from_dict
from tools.config.config import Config
from tools.engine import build
from tools.exporting import detectron2, huggingface
from tools.exporting import onnx as onnx_file
from tools.exporting.card import card, scores
from tools.exporting.source import Source, load
from tools.plots.curves import training_panels
from tools.reporting import sections

IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MoCo on a deep small-image stem, trained in bf16: a momentum encoder, two checkpoints."""
    flags = ("--method", "moco", *SMALL["moco"], "--mix", "unmix", "--precision", "bf16")
    output = tmp_path_factory.mktemp("runs")
    data = f"folder:{toy}"
    steps = ("--limit-steps", "2", "--checkpoint-every", "1")
    place = ("--data", data, "--output", str(output), "--name", "m")
    assert run_train(*TINY, *flags, *steps, *place) == 0
    scored = {"protocol": "knn", "k": 5, "data": data, "knn_top1": 0.875, "step": 2}
    other = scored | {"step": 1, "knn_top1": 0.123}
    lines = "".join(json.dumps(line) + "\n" for line in (scored, other))
    (output / "m" / "eval.jsonl").write_text(lines)
    return output / "m"


def trained_features(run: Path, which: str = "online") -> torch.Tensor:
    """The method's own features of ``IMAGES``."""
    config, state = build.load_run(run)
    method = build.create_method(config, 1, data_facts(config.data), state["data"]["images"])
    method.load_state_dict(state["method"])
    method.eval()
    with torch.no_grad():
        if which == "momentum":
            return method.key_encoder[0](IMAGES)
        return method.features(IMAGES)


def run_card(path: Path, monkeypatch: pytest.MonkeyPatch, images: torch.Tensor) -> torch.Tensor:
    """Run the code of a model card beside the file, as its reader would."""
    (code,) = re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)
    monkeypatch.chdir(path.parent if path.name != "README.md" else path.parent.parent)
    names = {"images": images}
    with torch.no_grad():
        exec(code, names)
    return torch.as_tensor(names["features"])


def source_of(backbone: str, side: int, stem: str = "standard", **settings: object) -> Source:
    """A source without a run: random weights, and batch statistics worth mixing up."""
    torch.manual_seed(0)
    encoder = create_backbone(backbone, side, stem).eval().requires_grad_(False)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean):
                values.normal_(0, 0.5)
            module.running_var.uniform_(0.5, 2)
    config = from_dict({"backbone": backbone, "image_size": side, "stem": stem, **settings}, "test")
    config = dataclasses.replace(config, optimizer="momentum", lr=0.1, schedule="cosine")
    return Source(encoder, "online", config, IMAGENET, 4, 512, "SwAV. Caron 2020, 2006.09882.")


@pytest.mark.parametrize("out", ["b.pth", "b.safetensors", "folder"])
@pytest.mark.parametrize("which", ["online", "momentum"])
def test_timm_gives_the_methods_features(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, which: str
) -> None:
    pytest.importorskip("safetensors")
    to = "timm" if "." in out else "huggingface"
    flags = ("--run", str(run), "--to", to, "--encoder", which, str(tmp_path / out))
    assert run_main(export.main, *flags) == 0
    readme = tmp_path / (f"{out}.README.md" if to == "timm" else f"{out}/README.md")
    theirs = run_card(readme, monkeypatch, IMAGES)
    torch.testing.assert_close(theirs, trained_features(run, which), rtol=1e-5, atol=1e-6)
    files = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    weights = ["model.safetensors", "config.json", "README.md"] if to == "huggingface" else [out]
    assert set(files) == {*weights, readme.name}  # and nothing temporary


def test_the_encoders_differ(run: Path) -> None:
    assert not torch.allclose(trained_features(run), trained_features(run, "momentum"))


def test_weights_are_float32_whatever_the_precision_and_by_plain_names(run: Path) -> None:
    source = load(run, None, "online")
    floating = [v.dtype for v in source.state().values() if v.is_floating_point()]
    assert set(floating) == {torch.float32}
    stock = timm.create_model("test_resnet", num_classes=0).state_dict()
    assert shapes(source.state()) == shapes(stock)


@pytest.mark.slow
def test_onnxruntime_gives_the_methods_features(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out = tmp_path / "b.onnx"
    assert run_main(export.main, "--run", str(run), "--to", "onnx", str(out)) == 0
    assert "verified: max difference" in capsys.readouterr().out
    for count in (3, 1):
        theirs = run_card(tmp_path / "b.onnx.README.md", monkeypatch, IMAGES[:count])
        ours = trained_features(run)[:count]
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
    model = onnx.load(out)
    known = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(known["mean"]) == list(IMAGENET.mean)
    assert json.loads(known["std"]) == list(IMAGENET.std)
    assert [o.version for o in model.opset_import if not o.domain] == [onnx_file.OPSET]
    source = load(run, None, "online")
    before = list(source.state())
    source.encoder.compile()  # what train.py --compile does
    assert list(source.state()) == before


@pytest.mark.parametrize(
    ("backbone", "side", "stem"),
    [
        ("resnet18", 32, "small"),
        ("resnet18", 32, "small-pool"),
        ("resnet50", 64, "standard"),
    ],
)
def test_torchvision_gives_the_same_features(
    tmp_path: Path, backbone: str, side: int, stem: str
) -> None:
    source, path = source_of(backbone, side, stem), tmp_path / "b.pth"
    target = export.TARGETS["torchvision"]
    target.check(source)
    target.write(source, path)
    model = getattr(torchvision.models, backbone)()
    if stem != "standard":
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    if stem == "small":
        model.maxpool = nn.Identity()
    model.fc = nn.Identity()
    model.load_state_dict(torch.load(path, weights_only=True))
    images = source.images(2)
    ours = source.encoder(images)
    torch.testing.assert_close(model.eval()(images), ours, rtol=1e-5, atol=1e-5)
    assert target.verify(source, path) < 1e-5  # the card's code


@pytest.mark.parametrize("backbone", ["resnet34", "wide_resnet50_2", "resnext50_32x4d"])
def test_torchvision_has_the_same_tensors(backbone: str) -> None:
    with torch.device("meta"):
        ours = timm.create_model(backbone, num_classes=0).state_dict()
        theirs = getattr(torchvision.models, backbone)()
    theirs.fc = nn.Identity()
    assert shapes(ours) == shapes(theirs.state_dict())


def shapes(state: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


class Conv(nn.Conv2d):
    """detectron2's convolution: it holds its norm."""

    def __init__(self, i: int, o: int, kernel: int, stride: int = 1) -> None:
        super().__init__(i, o, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(o)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(super().forward(x))


class Block(nn.Module):
    """detectron2's BasicBlock (two convolutions) or BottleneckBlock, STRIDE_IN_1X1 off."""

    def __init__(self, i: int, width: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Conv(i, width, 3, stride) if width == o else Conv(i, width, 1)
        self.conv2 = Conv(width, width, 3) if width == o else Conv(width, width, 3, stride)
        self.conv3 = Conv(width, o, 1) if width != o else None
        self.shortcut = Conv(i, o, 1, stride) if i != o else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(self.conv1(x).relu())
        y = y if self.conv3 is None else self.conv3(y.relu())
        return (y + (x if self.shortcut is None else self.shortcut(x))).relu()


class Detectron2(nn.Module):
    """Its ResNet by the names of its modules: stem.conv1, res2 to res5."""

    def __init__(self, counts: tuple[int, ...], expansion: int) -> None:
        super().__init__()
        self.stem = nn.Module()
        self.stem.conv1 = Conv(3, 64, 7, 2)
        i = 64
        for stage, count in enumerate(counts):
            width = 64 << stage
            blocks = []
            for k in range(count):
                stride = 2 if stage and not k else 1
                blocks.append(Block(i, width, width * expansion, stride))
                i = width * expansion
            setattr(self, f"res{stage + 2}", nn.Sequential(*blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(self.stem.conv1(x).relu(), 3, 2, 1)
        return self.res5(self.res4(self.res3(self.res2(x)))).mean((2, 3))


@pytest.mark.parametrize(
    ("backbone", "counts", "expansion"),
    [("resnet18", (2, 2, 2, 2), 1), ("resnet50", (3, 4, 6, 3), 4)],
)
def test_detectron2s_names_cover_every_tensor(
    tmp_path: Path, backbone: str, counts: tuple[int, ...], expansion: int
) -> None:
    source, path = source_of(backbone, 64), tmp_path / "b.pkl"
    detectron2.write(source, path)
    held = pickle.loads(path.read_bytes())
    assert held["__author__"] == "unmix"
    assert held["matching_heuristics"] is True
    assert all(isinstance(array, np.ndarray) for array in held["model"].values())
    assert len(held["model"]) == len(source.encoder.state_dict())
    model = Detectron2(counts, expansion)
    arrays = {name: torch.from_numpy(array) for name, array in held["model"].items()}
    model.load_state_dict(arrays)  # strict: names and shapes, none too many, none missing
    images = source.images(2)
    ours = source.encoder(images)
    torch.testing.assert_close(model.eval()(images), ours, rtol=1e-5, atol=1e-5)
    assert detectron2.verify(source, path) < 1e-5


def test_detectron2s_published_names() -> None:
    """Some of the names in He's converter and detectron2's own, spelled out."""
    names = {
        "conv1.weight": "stem.conv1.weight",
        "bn1.running_var": "stem.conv1.norm.running_var",
        "layer1.0.downsample.0.weight": "res2.0.shortcut.weight",
        "layer1.0.downsample.1.bias": "res2.0.shortcut.norm.bias",
        "layer3.5.conv3.weight": "res4.5.conv3.weight",
        "layer4.2.bn3.weight": "res5.2.conv3.norm.weight",
    }
    assert {name: detectron2.name_in_detectron2(name) for name in names} == names


@pytest.mark.parametrize("backbone", ["resnet18", "test_vit"])
def test_a_hub_folder_needs_nothing_but_its_name(tmp_path: Path, backbone: str) -> None:
    pytest.importorskip("safetensors")
    source = source_of(backbone, 48)
    huggingface.write(source, tmp_path / "f")
    model = timm.create_model(f"local-dir:{tmp_path / 'f'}", pretrained=True).eval()
    images = source.images(2)
    torch.testing.assert_close(model(images), source.encoder(images), rtol=1e-5, atol=1e-5)
    assert model.num_classes == 0
    facts = timm.data.resolve_model_data_config(model)
    assert tuple(facts["input_size"]) == (3, 48, 48)
    assert (tuple(facts["mean"]), tuple(facts["std"])) == (IMAGENET.mean, IMAGENET.std)
    assert math.floor(48 / facts["crop_pct"]) == source.resize == round(48 * 256 / 224)
    tuned = timm.create_model(f"local-dir:{tmp_path / 'f'}", pretrained=True, num_classes=7).eval()
    assert tuned(images).shape == (2, 7)
    same = tuned.forward_head(tuned.forward_features(images), pre_logits=True)
    torch.testing.assert_close(same, source.encoder(images), rtol=1e-5, atol=1e-5)


def test_a_hub_folder_of_a_small_stem_is_no_stock_model(run: Path, tmp_path: Path) -> None:
    """Its weights fit the stock model, which would give other features: loading has to fail."""
    pytest.importorskip("safetensors")
    source = load(run, None, "online")
    stock = timm.create_model("test_resnet", num_classes=0).eval()
    stock.load_state_dict(source.state())
    assert not torch.allclose(stock(IMAGES), source.encoder(IMAGES))
    notes = huggingface.write(source, tmp_path / "f")
    assert "model.conv1[0].stride = (1, 1)" in notes[0]
    with pytest.raises(TypeError, match="small_stem"):
        timm.create_model(f"local-dir:{tmp_path / 'f'}", pretrained=True)


def test_the_card_says_what_was_measured(run: Path, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    out = tmp_path / "b.pth"
    assert run_main(export.main, "--run", str(run), "--to", "timm", str(out)) == 0
    path = tmp_path / "b.pth.README.md"
    text = path.read_text()
    data = hub.ModelCard.load(path).data.to_dict()
    assert data["library_name"] == "timm"
    assert "license" not in data
    assert "knn_top1 87.50 %" in text
    assert "k=5" in text
    assert "12.30" not in text  # of another checkpoint
    assert "2 steps of 16" in text
    assert "shen2022unmix" in text
    assert "1911.05722" in text
    assert str(tmp_path) not in text
    assert str(run.parent) not in text
    (settings,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    again = from_dict(yaml.safe_load(settings), "the card")
    assert differences(again, load(run, None, "online").config) == []
    assert run_main(export.main, "--run", str(run), "--to", "timm", str(out)) == 2


@pytest.mark.parametrize(("recorded", "k"), [({"knn_k": 24}, 24), ({}, 200)])
def test_a_score_while_training_has_the_k_that_voted(
    run: Path, tmp_path: Path, recorded: dict[str, int], k: int
) -> None:
    line = {"step": 2, "knn_top1": 0.5, "knn_top5": 0.75, **recorded}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (row,) = re.findall(r"\| kNN while training.*", scores(load(run, None, "online"), tmp_path))
    assert row.endswith(f"knn_top1 50.00 %, knn_top5 75.00 % | k={k}, temperature=0.1 |")
    table = sections.scores([line], [], "online", 200)
    assert table is not None and table.rows[0][4] == f"k {k}, T 0.1, validation images"
    assert training_panels([line])["knn"].series[0].name == "top-1"
    assert len(training_panels([line])["knn"].series) == 2


def test_a_checkpoint_without_scores_is_not_evaluated(run: Path) -> None:
    source = dataclasses.replace(load(run, None, "online"), step=3)
    text = card(source, run, "timm", "code", [], "command")
    assert "Not evaluated." in text
    assert " %" not in text


def test_other_checkpoints_can_go(run: Path, tmp_path: Path) -> None:
    first = load(run, run / "checkpoints" / "step-1.pt", "online")
    last = load(run, None, "online")
    assert (first.step, last.step) == (1, 2)
    assert not torch.equal(first.encoder(IMAGES), last.encoder(IMAGES))


def test_an_export_is_replaced_only_when_asked(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "folder"
    flags = ("--run", str(run), "--to", "huggingface", str(out))
    assert run_main(export.main, *flags) == 0
    (out / "mine.txt").write_text("kept")
    (out / "config.json").write_text("old")
    assert run_main(export.main, *flags) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (out / "config.json").read_text() == "old"
    assert run_main(export.main, *flags, "--overwrite") == 0
    assert json.loads((out / "config.json").read_text())["num_classes"] == 0
    assert (out / "mine.txt").read_text() == "kept"


def test_what_does_not_load_back_is_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def damaged(source: Source, path: Path) -> list[str]:
        torch.save({k: v + 1 for k, v in source.state().items()}, path)
        return []

    timm_target = dataclasses.replace(export.TARGETS["timm"], write=damaged)
    monkeypatch.setitem(export.TARGETS, "timm", timm_target)
    out = tmp_path / "b.pth"
    assert run_main(export.main, "--run", str(run), "--to", "timm", str(out)) == 2
    assert "nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--to", "torchvision", "b.pth"), "resnet18, resnet34"),
        (("--to", "detectron2", "b.pkl"), "it has no test_resnet"),
        (("--to", "timm", "b.pt"), ".pth or .safetensors"),
        (("--to", "timm", "b.pth", "--checkpoint", "gone.pt"), "no checkpoint at gone.pt"),
    ],
)
def test_refusals_say_what_can_be_done(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_main(export.main, "--run", str(run), *flags) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_detectron2_has_no_small_stem() -> None:
    with pytest.raises(ValueError, match="--stem standard"):
        detectron2.check(source_of("resnet18", 32, "small"))


def test_cmcs_networks_are_no_single_model() -> None:
    config = dataclasses.replace(Config(method="cmc"), image_size=32, backbone="resnet18")

    def create(**options: object) -> nn.Module:
        return create_backbone("resnet18", 32, **options)

    halves = METHODS["cmc"].method.build_backbone(config.chosen, create)
    encoder = build_method(
        "cmc",
        config.chosen,
        halves,
        Setup(
            bn="group",
            group_size=2,
            batch_size=4,
            seed=0,
            steps_per_epoch=1,
            num_views=1,
            num_rows=4100,
        ),
    ).backbone
    source = dataclasses.replace(source_of("resnet18", 32), encoder=encoder, config=config)
    for name, target in export.TARGETS.items():
        if name == "onnx":
            target.check(source)
            continue
        with pytest.raises(ValueError, match="--to onnx exports both"):
            target.check(source)


def test_the_documentation_shows_what_the_cards_show() -> None:
    text = (Path(__file__).parents[2] / "docs/export.md").read_text()
    outs = {}
    for line in re.findall(r"^    python tools/export.py (.*)$", text, re.MULTILINE):
        args = tyro.cli(export.Arguments, args=shlex.split(line))
        outs[args.to] = args.output
    assert outs.keys() == export.TARGETS.keys()
    source = source_of("resnet50", 224)
    for name, target in export.TARGETS.items():
        assert target.example(source, outs[name]) in text
    small = source_of("resnet18", 32, "small")
    assert export.TARGETS["timm"].example(small, outs["timm"]) in text
