"""CLIM's settings: ``--clim.*``. What each default rests on is in docs/mixtures.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.settings import ClimMode, Denominator
from pipelines.ranges import Count, Positive, WholeNumber
from pipelines.settings import Fallback, RuleName


@dataclass(frozen=True)
class ClimConfig:
    """Mixtures with neighbours that lie nearer their cluster's centre."""

    rule: RuleName = "centre"
    """Which neighbours an anchor may be mixed with; cluster, knn, random are for comparison."""
    neighbours: Count = 20
    """Nearest images that the rule chooses from."""
    clusters: Count | None = None
    """Clusters of the spherical k-means; None: one for each 128 images."""
    limit: Count | None = None
    """Most neighbours an anchor keeps; None: all (ranked: 5)."""
    fallback: Fallback = "self"
    """An anchor without any: another view of itself, its nearest image, or no mixture."""
    features: Literal["momentum", "online"] = "momentum"
    """Which encoder's features are compared."""
    half: bool = False
    """Store them in half precision: 5.2 instead of 10.5 GB for ImageNet's, over all processes."""
    start_epoch: WholeNumber = 10
    """First epoch with neighbours; until then every anchor is its own."""
    refresh: Count = 5
    """Epochs after which neighbours are looked for again."""
    alpha: Positive = 2.0
    """Beta(alpha, alpha) draws the anchor's share of a mixture."""
    kind: Literal["cutmix", "mixup"] = "cutmix"
    """Paste a box of the neighbour, or blend the whole images."""
    mode: ClimMode = "add"
    """Base and mixed term, the mixed term alone, or plain neighbours as positives too."""
    weight: Positive = 1.0
    """Weight w of the mixed term: (base + w mixed) / (1 + w)."""
    denominator: Denominator = "separate"
    """A softmax for each of the two positives, or one for both."""


IMAGES_PER_CLUSTER = 128


def num_clusters(config: ClimConfig, num_rows: int) -> int:
    """Return the number of clusters of ``num_rows`` images."""
    return min(config.clusters or max(num_rows // IMAGES_PER_CLUSTER, 1), num_rows)
