"""timm models as backbones."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn

from models.modules.backbone import create_backbone, num_features
from models.settings.base import Stem, StemInit


@pytest.mark.parametrize("name", ["resnet18", "resnet10t"])
def test_small_stem_keeps_the_resolution(name: str) -> None:
    model = create_backbone(name, 32)
    sizes = []
    model.layer1.register_forward_pre_hook(lambda m, x: sizes.append(x[0].shape[-2:]))
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, num_features(model)) == (2, 512)
    assert sizes == [(32, 32)]


def test_standard_stem() -> None:
    for model in (create_backbone("resnet10t", 224), create_backbone("resnet10t", 32, "standard")):
        assert isinstance(model.maxpool, nn.MaxPool2d)
        assert model.conv1[0].stride == (2, 2)
    assert create_backbone("resnet18", 96, "small").conv1.kernel_size == (3, 3)


def test_small_stem_with_pooling() -> None:
    """The Whitening code base's ResNet-18 for STL-10 and Tiny ImageNet."""
    model = create_backbone("resnet18", 64, "small-pool")
    assert model.conv1.kernel_size == (3, 3) and model.conv1.stride == (1, 1)
    sizes = []
    model.layer1.register_forward_pre_hook(lambda m, x: sizes.append(x[0].shape[-2:]))
    model(torch.randn(2, 3, 64, 64))
    assert sizes == [(32, 32)]


@pytest.mark.parametrize("stem", ["small", "small-pool"])
def test_first_weights_of_a_small_stem(stem: Stem) -> None:
    """He's normal over the fan-out, 64 x 9, or the uniform draw of ``nn.Conv2d``: fan-in 3 x 9."""
    he = create_backbone("resnet18", 32, stem).conv1.weight.detach()
    assert he.std() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)
    bound = (3 * 9) ** -0.5
    plain = create_backbone("resnet18", 32, stem, stem_init="pytorch").conv1.weight.detach()
    assert plain.abs().max() <= bound and plain.std() == pytest.approx(bound / 3**0.5, rel=0.1)
    deep = create_backbone("resnet10t", 32, stem, stem_init="pytorch").conv1[0].weight
    assert deep.abs().max() <= bound


def test_other_first_weights_change_no_other() -> None:
    models = []
    for init in get_args(StemInit):
        torch.manual_seed(0)
        models.append(create_backbone("resnet18", 32, stem_init=init).state_dict())
    different = [k for k in models[0] if not models[0][k].equal(models[1][k])]
    assert different == ["conv1.weight"]


def test_last_gamma() -> None:
    assert (create_backbone("resnet18", 224).layer1[0].bn2.weight == 0).all()
    model = create_backbone("resnet18", 224, zero_init_last=False)
    assert (model.layer1[0].bn2.weight == 1).all()


def test_transformers_are_built_for_the_size() -> None:
    model = create_backbone("vit_tiny_patch16_224", 64)
    assert model.pos_embed.shape[1] == 17
    for size in (64, 32):
        assert model(torch.randn(1, 3, size, size)).shape == (1, num_features(model))


def test_width_is_that_of_the_features() -> None:
    model = create_backbone("mobilenetv3_small_050", 32)
    assert model.eval()(torch.randn(1, 3, 32, 32)).shape == (1, num_features(model))


def test_half_width_of_one_or_two_channels() -> None:
    """CMC's ResNet-50: half the channels in each stage, the stem as it is."""
    for channels in (1, 2):
        model = create_backbone("resnet50", 64, in_chans=channels, width=0.5)
        assert model.conv1.in_channels == channels and model.conv1.out_channels == 64
        assert model.layer1[0].conv2.out_channels == 32
        assert model(torch.randn(2, channels, 32, 32)).shape == (2, 1024)
        assert num_features(model) == 1024


def test_errors_name_the_flag() -> None:
    with pytest.raises(ValueError, match=r"--backbone resnet8x: .*closest: .*resnet"):
        create_backbone("resnet8x", 32)
    for stem in ("small", "small-pool"):
        with pytest.raises(ValueError, match=f"--stem {stem} "):
            create_backbone("vit_tiny_patch16_224", 32, stem)
    for name, size in (("resnet18", 224), ("vit_tiny_patch16_224", 32)):
        with pytest.raises(ValueError, match="--stem-init pytorch "):
            create_backbone(name, size, stem_init="pytorch")
    with pytest.raises(ValueError, match="only ResNets"):
        create_backbone("vit_tiny_patch16_224", 32, width=0.5)
