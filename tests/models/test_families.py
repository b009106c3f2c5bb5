"""models.modules with timm's families: each trains at a side, or is refused before the first step.

All families are tried by ``make faults`` (tests/faults/families.py).
"""

from __future__ import annotations

import pytest
import timm
import torch
from family_cases import FAMILIES, works_or_is_refused

from models.modules.backbone import create_backbone
from models.modules.shapes import output_shape, refuse_sides

CASES = [
    ("mobilenetv3", 64, True),
    ("convnext", 64, True),
    ("swin_transformer", 64, True),
    ("maxxvit", 64, True),
    ("maxxvit", 50, False),
    ("vision_transformer", 64, True),
    ("vision_transformer", 50, False),
    ("inception_v3", 64, False),
]
"""Family, side in pixels, and whether it can train there."""


def test_every_family_has_a_model() -> None:
    assert set(FAMILIES) == set(timm.list_modules())
    for module, name in FAMILIES.items():
        assert timm.models.is_model_in_modules(name, [module]), name


@pytest.mark.parametrize(("family", "side", "trains"), CASES)
def test_a_side_trains_or_is_refused(family: str, side: int, trains: bool) -> None:
    assert works_or_is_refused(FAMILIES[family], side) is trains


def test_the_trial_changes_nothing() -> None:
    backbone = create_backbone("test_resnet", 32).train()
    backbone.get_submodule("bn1").eval()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    drawn = torch.get_rng_state()
    assert output_shape(backbone, 3, 40) == (2, backbone.num_features)
    assert torch.get_rng_state().equal(drawn)
    assert all(value.equal(before[key]) for key, value in backbone.state_dict().items())
    assert backbone.training and not backbone.get_submodule("bn1").training
    assert not any(value.is_meta for value in backbone.state_dict().values())


def test_a_swin_is_built_for_one_side() -> None:
    """Smaller crops beside the large ones are refused, not met in the first step."""
    with torch.device("meta"):
        backbone = create_backbone(FAMILIES["swin_transformer"], 64)
        with pytest.raises(ValueError, match=r"views of 32 pixels \(--crop-sizes\)"):
            refuse_sides(backbone, "swin", 3, {64: "--image-size 64", 32: "--crop-sizes"})


def test_a_refused_side_names_the_flag_that_asks_for_it() -> None:
    backbone = create_backbone("test_vit", 160)
    sides = {160: "--image-size 160", 96: "--views dino", 100: "--resolution-schedule"}
    text = r"^--backbone test_vit cannot take views of 100 pixels \(--resolution-schedule\): .*16"
    with pytest.raises(ValueError, match=text):
        refuse_sides(backbone, "test_vit", 3, sides)
