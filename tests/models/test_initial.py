"""Weights loaded into a backbone: what timm itself makes of them is the reference."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import Tensor, nn

from models.modules.backbone import create_backbone
from models.modules.initial import load_weights
from models.modules.pretrained import architecture_of, check_weights_exist, load_pretrained

MODELS = [("test_resnet", 64, 3), ("test_resnet", 64, 1), ("test_vit", 160, 3), ("test_vit", 96, 4)]
"""Backbone, side, channels: the position embedding and the first convolution change."""


def random_state(name: str) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return timm.create_model(name, num_classes=7).state_dict()


@pytest.mark.parametrize(("name", "side", "channels"), MODELS)
def test_weights_arrive_as_by_timm(name: str, side: int, channels: int) -> None:
    state = random_state(name)
    options = {"num_classes": 0, "in_chans": channels}
    options |= {"img_size": side} if "vit" in name else {}
    overlay = {"state_dict": dict(state), "num_classes": 7}
    reference = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay=overlay, **options
    ).eval()
    backbone = create_backbone(name, side, "standard", in_chans=channels)
    copy = create_backbone(name, side, "standard", in_chans=channels)
    loaded = load_weights([backbone, copy], state)
    assert loaded.count == loaded.total and not loaded.new
    changed = {"conv1.0.weight", "patch_embed.proj.weight"} if channels != 3 else set()
    changed = {key for key in changed if key in backbone.state_dict()}
    changed |= {"pos_embed"} if "vit" in name and side != 160 else set()
    assert set(loaded.adapted) == changed
    images = torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = reference(images)
        assert backbone.eval()(images).equal(expected) and copy.eval()(images).equal(expected)


def test_one_line_says_what_loaded_and_what_did_not() -> None:
    loaded = load_weights([create_backbone("test_resnet", 96)], random_state("test_resnet"))
    assert loaded.describe("FILE", "timm") == (
        f"loaded {loaded.total} of {loaded.total} tensors from FILE (timm layout); new: head; "
        "left out: fc.weight fc.bias"
    )
    state = random_state("test_resnet")
    del state["layer1.0.bn1.bias"]
    loaded = load_weights([create_backbone("test_resnet", 96)], state, ["queue"])
    line = loaded.describe("FILE", "MoCo")
    assert line.startswith(f"loaded {loaded.total - 1} of {loaded.total} tensors")
    assert "new: head layer1.0.bn1.bias; left out: fc.weight fc.bias queue" in line


def test_what_does_not_fit_is_refused() -> None:
    backbone = create_backbone("test_resnet", 96)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    state = random_state("test_resnet")
    for fitting, reason in (
        ({}, "only 0 of the backbone's"),
        ({"blocks.0.norm1.weight": torch.ones(3)}, "has blocks.0.norm1.weight"),
        (random_state("test_vit"), "only 0 of"),
        (state | {"layer1.7.conv1.weight": torch.ones(3)}, "deeper model.* --backbone"),
        (state | {"bn1.weight": torch.ones(3)}, r"bn1.weight \(3,\), here .* --backbone"),
    ):
        with pytest.raises(ValueError, match=reason):
            load_weights([backbone], fitting)
    assert all(backbone.state_dict()[key].equal(before[key]) for key in before)


@pytest.mark.parametrize(("stem", "other"), [("small", "standard"), ("standard", "small")])
def test_another_stem_is_named(stem: Any, other: Any) -> None:
    with torch.device("meta"):
        backbone, theirs = (create_backbone("resnet18", 32, one) for one in (stem, other))
    with pytest.raises(ValueError, match=f"first convolution is that of --stem {other}"):
        load_weights([backbone], theirs.state_dict())


def test_a_deeper_resnet_is_not_taken_for_a_shallower_one() -> None:
    with torch.device("meta"):
        state = timm.create_model("resnet34").state_dict()
        backbone = create_backbone("resnet18", 224)
    with pytest.raises(ValueError, match="deeper model"):
        load_weights([backbone], state)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_without_a_network_one_sentence(no_network: None, hub_cache: Path) -> None:
    for name in ("test_resnet.r160_in1k", "test_resnet", "hf-hub:someone/something"):
        with pytest.raises(ValueError, match=r"not in the cache \(HF_HOME\).*--dry-run") as error:
            load_pretrained(name)
        assert "\n" not in str(error.value)


def test_the_cache_serves_without_a_network(no_network: None, hub_cache: Path) -> None:
    state = timm.create_model("test_resnet", num_classes=1000).state_dict()
    place = hub_cache / "models--timm--test_resnet.r160_in1k"
    (place / "snapshots" / "abc").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")
    save_file(state, place / "snapshots" / "abc" / "model.safetensors")
    found = load_pretrained("test_resnet")
    assert found.name == "test_resnet.r160_in1k" and len(found.mean) == 3
    assert all(found.state[key].equal(state[key]) for key in state)


def test_a_folder_in_the_form_of_the_hub(tmp_path: Path) -> None:
    model = timm.create_model("test_vit", num_classes=4, depth=2)
    save_for_hf(model, tmp_path, model_args={"depth": 2})
    name = f"local-dir:{tmp_path}"
    architecture, arguments = architecture_of(name)
    assert architecture == "test_vit" and arguments["depth"] == 2
    state = load_pretrained(name).state
    assert all(state[key].equal(value) for key, value in model.state_dict().items())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architecture": "bert"}))
    with pytest.raises(ValueError, match=r"no model of timm's: .*'bert'"):
        architecture_of(name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("resnet18.a9_in1k", "no weights a9_in1k of resnet18; it has .*resnet18.a1_in1k"),
        ("resnet8x", "no model resnet8x; closest: .*resnet"),
        ("resnet14t.x", "no weights x of|no weights of"),
    ],
)
def test_unknown_weights_are_refused_with_the_closest(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        check_weights_exist(name)


OWN = """
import torch
from torch import nn

class Encoder(nn.Module):
    def __init__(self, width=6, in_chans=3):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(in_chans, width, 3), nn.BatchNorm2d(width), nn.ReLU())
    def forward(self, x):
        return self.net(x).mean((2, 3))

class Maps(Encoder):
    def forward(self, x):
        return self.net(x)

def encoder():
    return Encoder(5)

def nothing():
    return 3

class Valued(Encoder):
    def forward(self, x):
        return super().forward(x) if x.sum().item() < 1 else None
"""


def test_a_module_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    torch.manual_seed(0)
    drawn = torch.get_rng_state()
    model = create_backbone(f"{file}:Encoder", 16, arguments={"width": 9}, in_chans=2)
    assert model.num_features == 9 and isinstance(model, nn.Module) and model.training
    assert model(torch.zeros(4, 2, 16, 16)).shape == (4, 9)
    torch.set_rng_state(drawn)
    again = create_backbone(f"{file}:Encoder", 16, arguments={"width": 9}, in_chans=2)
    assert all(a.equal(b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert create_backbone(f"{file}:encoder", 16).num_features == 5
    assert create_backbone(f"{file}:Valued", 16).num_features == 6  # its values count: on the host
    load_weights([again], {k.removeprefix("model."): v for k, v in model.state_dict().items()})
    for name, text in (
        (f"{file}:Maps", r"2 images of 16 pixels \(--image-size 16\) into \(2, 6, 14, 14\)"),
        (f"{file}:Absent", "no class Absent"),
        (f"{file}:nothing", "makes a int"),
        (f"{tmp_path}/absent.py:Encoder", "no file"),
        (f"{file}:Encoder", "takes|expected|unexpected"),
    ):
        with pytest.raises(ValueError, match=f"--backbone {re.escape(name)}.*{text}"):
            create_backbone(name, 16, arguments={"depth": 3} if name.endswith(":Encoder") else {})
