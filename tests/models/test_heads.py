"""The methods' heads are those of their papers."""

from __future__ import annotations

from typing import Any

from method_cases import TinyNet
from torch import nn

from models.methods import METHODS
from models.methods.base import Setup
from models.methods.build import build_method
from models.methods.moco import head_of
from models.settings.moco import MocoConfig


def test_heads_are_the_papers() -> None:
    def shape(name: str, **options: Any) -> list[str]:
        config = METHODS[name].settings(dim=8, hidden=16, **options)
        method = build_method(
            name,
            config,
            TinyNet(),
            Setup(
                bn="sync",
                group_size=4,
                batch_size=16,
                seed=0,
                steps_per_epoch=2,
            ),
        )
        out = []
        for layer in method.head:
            affine = getattr(layer, "weight", None) is not None
            out.append(
                f"{layer.in_features}-{layer.out_features}{'b' if layer.bias is not None else ''}"
                if isinstance(layer, nn.Linear)
                else type(layer).__name__ + ("" if affine or not hasattr(layer, "weight") else "0")
            )
        return out

    norm = ["BatchNorm", "ReLU"]
    assert shape("simsiam") == ["16-8", *norm, "8-8", *norm, "8-8", "BatchNorm0"]
    assert shape("simsiam", layers=2) == ["16-8", *norm, "8-8", "BatchNorm0"]
    assert shape("barlow") == ["16-16", *norm, "16-16", *norm, "16-8"]
    assert shape("vicreg") == shape("barlow")
    assert shape("moco-v3") == ["16-16", *norm, "16-8", "BatchNorm0"]
    assert shape("dino") == ["16-16b", "GELU", "16-16b", "GELU", "16-8b"]


def test_moco_s_third_layer_comes_with_a_batch_norm() -> None:
    """asym-siam's 2048-2048-2048-128; heads of two layers and one are as before."""
    names = {
        layers: [type(layer).__name__ for layer in head_of(16, MocoConfig(dim=8, **layers_of))]
        for layers, layers_of in ((1, {"mlp": False}), (2, {}), (3, {"layers": 3}))
    }
    linear, norm, relu = "Linear", "BatchNorm1d", "ReLU"
    assert names[1] == [linear] and names[2] == [linear, relu, linear]
    assert names[3] == [linear, norm, relu, linear, relu, linear]
