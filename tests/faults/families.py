"""Every family of timm trains at a small side, or is refused before the first step."""

from __future__ import annotations

import pytest
from family_cases import FAMILIES, works_or_is_refused

REFUSED = {
    *("byoanet", "crossvit", "deepseek_vit", "efficientformer"),
    *("inception_resnet_v2", "inception_v3", "inception_v4"),
}
"""What timm's smallest models of a family cannot take at 64 pixels."""


@pytest.mark.parametrize("family", FAMILIES)
def test_family(family: str) -> None:
    assert works_or_is_refused(FAMILIES[family], 64) is (family not in REFUSED)
