"""Backbones of patches: the sides of small crops, and the learning rates of layers."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from models.modules.backbone import create_backbone
from models.optim import layer_shares
from pipelines.data_facts import IMAGENET
from tools.config.cli import from_saved, to_dict
from tools.config.config import Config, ResolvedConfig
from tools.config.resolve import resolve, resolved
from tools.config.view_plan import base_views, describe_crops
from tools.engine.architecture import describe_layers, refuse_views, with_whole_patches


def encoder_of(config: ResolvedConfig) -> Any:
    """What has the backbone alone of a method, on the meta device."""
    with torch.device("meta"):
        return SimpleNamespace(
            backbone=create_backbone(config.backbone, config.image_size, in_chans=config.in_chans)
        )


@pytest.mark.parametrize(("crops", "small"), [((), 8), ((2, 6), 6)])
def test_published_small_crops_are_whole_patches(crops: tuple[int, ...], small: int) -> None:
    given = Config(method="dino", image_size=160, backbone="test_vit", crops=crops)
    config = resolve(given, IMAGENET, "no")
    before = base_views(config)
    assert [view.size for view in before] == [160] * 2 + [69] * small
    fitted = with_whole_patches(given, config, encoder_of(config))
    refuse_views(fitted, encoder_of(config), 10)
    expected = [dataclasses.replace(view, size=64 if view.size == 69 else 160) for view in before]
    assert list(base_views(fitted)) == expected
    (line,) = describe_crops(given, fitted)
    assert "64 pixels, not the published 69" in line
    scales = " ".join(f"{x:g}" for view in (before[0], before[2]) for x in view.scale)
    flags = f"--crops 2 {small} --crop-sizes 160 64 --crop-scales {scales}"
    assert line.endswith(flags)
    saved = from_saved(to_dict(fitted), "a run")  # which a resume takes as it is
    assert base_views(resolved(saved)) == base_views(fitted)
    assert describe_crops(saved, resolved(saved)) == []
    given = dataclasses.replace(given, backbone="test_resnet")
    config = resolve(given, IMAGENET, "no")
    assert with_whole_patches(given, config, encoder_of(config)) is config
    assert describe_crops(given, config) == []


def test_sides_that_flags_name_stay_and_their_refusal_names_others() -> None:
    given = Config(method="dino", image_size=160, backbone="test_vit", crops=(2, 3),
                   crop_sizes=(160, 70), crop_scales=(0.1, 1.0, 0.1, 0.2))  # fmt: skip
    config = resolve(given, IMAGENET, "no")
    assert with_whole_patches(given, config, encoder_of(config)) is config
    fitting = "multiples of 16, as --crops 2 3 --crop-sizes 160 64 --crop-scales 0.1 1 0.1 0.2"
    with pytest.raises(ValueError, match=f"of 70 pixels .*{fitting}$"):
        refuse_views(config, encoder_of(config), 10)


def test_layer_decay_says_its_rates() -> None:
    config = resolve(Config(backbone="test_vit", layer_decay=0.5, lr=1.0), IMAGENET, "no")
    shares = set(layer_shares(encoder_of(config).backbone, 0.5).values())
    (line,) = describe_layers(config, encoder_of(config))
    assert f"{min(shares):.3g} in the backbone's first layer, 0.5 in its last and 1 in" in line
    assert describe_layers(dataclasses.replace(config, layer_decay=1.0), encoder_of(config)) == []
