"""Settings of the scores during training, and of what is kept for them."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.ranges import Count
from tools.config.section import Section, free


@dataclass(frozen=True)
class ScoreConfig(Section):
    """The kNN score during training (``knn_every`` is its rhythm), and the best checkpoint."""

    title = "scores"
    knn_k: Count = free(200)
    """Neighbours that vote in the kNN score; fewer if fewer images can vote."""
    keep_best: bool = free(False)
    """Also keep the checkpoint of the best kNN score, and save one at each new best."""
