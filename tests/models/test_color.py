"""CMC's colour spaces against scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.color
import torch
from oracles import check

from models.modules.color import SPACES, lightness_and_color


@pytest.mark.parametrize("space", SPACES)
def test_color_spaces_are_those_of_scikit_image(space: str) -> None:
    rgb = np.random.default_rng(0).random((2, 9, 9, 3))
    rgb[0, 0] = np.linspace(0, 0.2, 9)[:, None]  # the straight parts near black
    rgb[0, 1] = 1
    convert = {"lab": skimage.color.rgb2lab, "ycbcr": skimage.color.rgb2ycbcr}[space]
    facts = SPACES[space]
    expected = ((convert(rgb) - facts.mean) / facts.std).transpose(0, 3, 1, 2)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    view = torch.from_numpy(((rgb - mean) / std).transpose(0, 3, 1, 2))
    first, others = lightness_and_color(view, mean, std, space)
    check(torch.cat([first, others], 1), expected, 2e-6)  # its matrices have six digits as well
    beyond = torch.full((1, 3, 2, 2), 50.0)
    white = lightness_and_color(beyond, mean, std, space)[0]
    check(
        white, np.full((1, 1, 2, 2), (convert(np.ones(3))[0] - facts.mean[0]) / facts.std[0]), 1e-4
    )
