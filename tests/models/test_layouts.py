"""Files of weights by the layout of their keys."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from models.modules.initial import load_weights
from models.modules.layouts import LAYOUTS, Layout, find_encoder
from models.modules.pretrained import read_file


def wrapped(layout: Layout, state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The content of a file of this layout, with a head beside the encoder."""
    tensors = {layout.prefix + key: value for key, value in state.items()}
    content: Any = tensors | ({"other.weight": torch.ones(1)} if layout.prefix else {})
    for key in reversed(layout.path):
        content = {key: content, "epoch": 3}
    return content


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda one: f"{one.path}{one.prefix}")
def test_each_layout_is_recognised(layout: Layout) -> None:
    state = {"conv1.weight": torch.arange(3.0), "layer1.0.bn1.bias": torch.ones(2)}
    found = find_encoder(wrapped(layout, state))
    assert found.layout is layout
    assert found.state.keys() == state.keys()
    assert all(found.state[key] is state[key] for key in state)
    assert found.others == (("other.weight",) if layout.prefix else ())


def test_the_page_lists_the_layouts() -> None:
    page = (Path(__file__).parents[2] / "docs/weights.md").read_text()
    for layout in LAYOUTS:
        place = ".".join(f"`{key}`" for key in layout.path) or "the top"
        begin = f"`{layout.prefix}`" if layout.prefix else ""
        assert f"| {layout.name} | {place} | {begin} |" in page


def test_the_momentum_encoder_is_not_the_encoder() -> None:
    """MoCo's file holds both, and the queue."""
    names = ("module.encoder_q.conv1.weight", "module.encoder_k.conv1.weight", "module.queue")
    found = find_encoder({"state_dict": {name: torch.ones(1) for name in names}})
    assert list(found.state) == ["conv1.weight"] and found.others == names[1:]
    teacher = {"backbone.conv1.weight": torch.zeros(1), "head.mlp.0.weight": torch.zeros(1)}
    student = {f"module.{name}": torch.ones(1) for name in teacher}
    found = find_encoder({"student": student, "teacher": teacher, "epoch": 100})
    assert found.layout is not None and found.layout.name == "DINO teacher"
    assert (found.state["conv1.weight"] == 0).all()


def test_no_tensors_are_no_layout() -> None:
    assert find_encoder({"epoch": 3, "optimizer": {"lr": 0.1}}).layout is None


def test_files_are_read_without_running_their_code(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet")
    state = model.state_dict()
    beside = {"args": argparse.Namespace(lr=0.1), "best": np.float64(0.3), "epoch": 1}
    torch.save({"state_dict": state} | beside, tmp_path / "a.pth.tar")
    save_file(state, tmp_path / "a.safetensors")
    plain, safe = read_file(tmp_path / "a.pth.tar"), read_file(tmp_path / "a.safetensors")
    assert all(plain["state_dict"][key].equal(state[key]) for key in state)
    assert safe.keys() == state.keys() and all(safe[key].equal(state[key]) for key in state)


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_resnet"), tmp_path / "whole.pth")
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    np.savez(tmp_path / "jax.npz", a=np.ones(1))
    torch.save([1, 2], tmp_path / "list.pth")
    reasons = {
        "whole.pth": "state_dict alone",
        "text.pth": "state_dict alone|no file of weights",
        "text.safetensors": "no file of weights",
        "jax.npz": "npz files are not read",
        "list.pth": "holds a list",
    }
    for name, reason in reasons.items():
        with pytest.raises(ValueError, match=reason):
            read_file(tmp_path / name)


@pytest.mark.parametrize("layout", [LAYOUTS[2], LAYOUTS[18], LAYOUTS[-1]], ids=lambda one: one.name)
def test_torchvisions_vit_gives_the_features_of_timms(layout: Layout) -> None:
    torch.manual_seed(0)
    size = {"num_layers": 3, "num_heads": 4, "hidden_dim": 32, "mlp_dim": 64}
    theirs = torchvision.models.VisionTransformer(image_size=32, patch_size=8, **size).eval()
    for parameter in theirs.parameters():  # some begin as zeros
        torch.nn.init.normal_(parameter, std=0.2)
    ours = VisionTransformer(32, 8, embed_dim=32, depth=3, num_heads=4, mlp_ratio=2, num_classes=0)
    found = find_encoder(wrapped(layout, dict(theirs.state_dict())))
    assert found.layout is layout
    loaded = load_weights([ours.eval()], found.state)
    assert (loaded.new, loaded.left_out) == ((), ("head.weight", "head.bias"))
    theirs.heads = torch.nn.Identity()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=1e-5)
