"""How a detector is trained: the published schedules, and the demo's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tools.evaluation.detection.models import Sizes

Dataset = Literal["demo", "voc", "coco"]

PUBLISHED_BATCH = 16
"""Pictures a step for which the published learning rate, 0.02, is stated."""
MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4
DROP = 0.1
"""Share of the learning rate that is left after a milestone."""
WARMUP_FROM = 1e-3
"""Share of the learning rate at the first step of a warm-up."""


@dataclass(frozen=True)
class DetectionSchedule:
    """How long, how fast and how large."""

    steps: int
    milestones: tuple[float, ...]
    """Shares of the steps after which the learning rate drops."""
    warmup: int
    """Steps."""
    batch_size: int
    """Pictures a step, over all processes."""
    lr: float
    precise_bn: int
    """Steps' worth of pictures over which batch norm's statistics are averaged before the test."""
    sizes: Sizes

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        passed = sum(step >= round(share * self.steps) for share in self.milestones)
        done = min(step / self.warmup, 1.0) if self.warmup else 1.0
        return self.lr * DROP**passed * (WARMUP_FROM + (1 - WARMUP_FROM) * done)


def sides(first: int, last: int) -> tuple[int, ...]:
    """Return every 32nd side, both ends included."""
    return tuple(range(first, last + 1, 32))


PLANS: dict[Dataset, DetectionSchedule] = {
    # He 2020 (arXiv:1911.05722), whose detection code Un-Mix uses unchanged.
    "voc": DetectionSchedule(24_000, (3 / 4, 11 / 12), 100, 16, 0.02, 200, Sizes(sides(480, 800))),
    "coco": DetectionSchedule(180_000, (2 / 3, 8 / 9), 1000, 16, 0.02, 200, Sizes(sides(640, 800))),
    "demo": DetectionSchedule(120, (3 / 4,), 10, 4, 0.01, 20, Sizes((160, 192), 32, 50, grid=7)),
}
