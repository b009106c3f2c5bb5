"""CLIM's settings: ``--clim.*``. What each default rests on is in docs/mixtures.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.settings.base import ClimMode, Denominator
from pipelines.ranges import Count, Positive, WholeNumber
from pipelines.settings import Fallback, RuleName


@dataclass(frozen=True)
class ClimConfig:
    """Mixtures with neighbours that lie nearer their cluster's centre."""

    rule: RuleName = "centre"
    """Which of its nearest images an anchor may be mixed with (cluster, knn, random: baselines)."""
    neighbours: Count = 20
    """Nearest images from which the rule chooses."""
    clusters: Count | None = None
    """Clusters of the spherical k-means; None: one for every 128 images."""
    limit: Count | None = None
    """Largest number of neighbours of an anchor; None: all (ranked: 5)."""
    fallback: Fallback = "self"
    """Anchor without neighbours: mixed with another view of itself, its nearest image, or not."""
    features: Literal["momentum", "online"] = "momentum"
    """Encoder whose features are compared."""
    half: bool = False
    """Store features in half precision (ImageNet: 5.2 instead of 10.5 GB, over all processes)."""
    start_epoch: WholeNumber = 10
    """First epoch with neighbours; before it, every anchor is its own neighbour."""
    refresh: Count = 5
    """Epochs between searches for neighbours."""
    alpha: Positive = 2.0
    """alpha of Beta(alpha, alpha), the distribution of the anchor's share of a mixture."""
    kind: Literal["cutmix", "mixup"] = "cutmix"
    """Paste a box of the neighbour, or blend the whole images."""
    mode: ClimMode = "add"
    """Loss: base and mixed term, the mixed term alone, or plain neighbours as positives too."""
    weight: Positive = 1.0
    """Weight w of the mixed term: (base + w mixed) / (1 + w)."""
    denominator: Denominator = "separate"
    """Softmax: one for each of the two positives, or one shared by both."""


IMAGES_PER_CLUSTER = 128


def num_clusters(config: ClimConfig, num_rows: int) -> int:
    """Return the number of clusters of ``num_rows`` images."""
    return min(config.clusters or max(num_rows // IMAGES_PER_CLUSTER, 1), num_rows)
