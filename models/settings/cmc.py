"""Settings of CMC: ``--cmc.*``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.settings.bank import BankConfig
from models.settings.base import Defaults
from pipelines.ranges import Positive

Space = Literal["lab", "ycbcr"]


@dataclass(frozen=True)
class CmcConfig(BankConfig):
    """Lightness and colour of an image, told from other images' by each other's memory bank."""

    min_views = max_views = 1
    supports_unmix = False
    needs_rgb = True
    defaults = Defaults("momentum", 0.06, 1e-4, "cmc", "group", schedule="step")

    space: Space = "lab"
    """Colour space: lab (L | ab) or ycbcr (Y | CbCr)."""
    width: Positive = 0.5
    """Width of each of the two ResNets as a share of --backbone's (published: 0.5, 1, 2)."""
