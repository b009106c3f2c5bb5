"""CLIM's settings: ``--clim.*``. What each default rests on is in docs/mixtures.md."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from models.losses.clim import Denominator, Mode
from pipelines.mixtures.clim import Fallback
from pipelines.mixtures.clim_rules import RuleName


@dataclass(frozen=True)
class ClimConfig:
    """Mixtures with neighbours that lie nearer their cluster's centre."""

    rule: RuleName = "centre"
    """Which neighbours an anchor may be mixed with; cluster, knn, random are for comparison."""
    neighbours: int = 20
    """Nearest images that the rule chooses from."""
    clusters: int | None = None
    """Clusters of the spherical k-means; None: one for each 128 images."""
    limit: int | None = None
    """Most neighbours an anchor keeps; None: all (ranked: 5)."""
    fallback: Fallback = "self"
    """An anchor without any: another view of itself, its nearest image, or no mixture."""
    features: Literal["momentum", "online"] = "momentum"
    """Which encoder's features are compared."""
    half: bool = False
    """Store them in half precision: 5.2 instead of 10.5 GB for ImageNet's, over all processes."""
    start_epoch: int = 10
    """First epoch with neighbours; until then every anchor is its own."""
    refresh: int = 5
    """Epochs after which neighbours are looked for again."""
    alpha: float = 2.0
    """Beta(alpha, alpha) draws the anchor's share of a mixture."""
    kind: Literal["cutmix", "mixup"] = "cutmix"
    """Paste a box of the neighbour, or blend the whole images."""
    mode: Mode = "add"
    """Base and mixed term, the mixed term alone, or plain neighbours as positives too."""
    weight: float = 1.0
    """Weight w of the mixed term: (base + w mixed) / (1 + w)."""
    denominator: Denominator = "separate"
    """A softmax for each of the two positives, or one for both."""


RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("neighbours", "clusters", "limit", "refresh"), (1, math.inf)),
    "start_epoch": (0, math.inf),
    **dict.fromkeys(("alpha", "weight"), (math.ulp(0.0), math.inf)),
}
"""Least and largest value of the numbers."""

IMAGES_PER_CLUSTER = 128


def num_clusters(config: ClimConfig, num_rows: int) -> int:
    """Return the number of clusters of ``num_rows`` images."""
    return min(config.clusters or max(num_rows // IMAGES_PER_CLUSTER, 1), num_rows)
