"""The published training schedules of detectors, and the demo's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.optim import learning_rate, linear_warmup
from tools.evaluation.detection.detector import Sizes

Dataset = Literal["demo", "voc", "coco"]

MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4
WARMUP_START = 1e-3
"""Learning rate at the first step of the warm-up, as a share of the peak."""


@dataclass(frozen=True)
class DetectionSchedule:
    """Number of steps, batch size, learning rate and image sizes."""

    steps: int
    milestones: tuple[float, ...]
    """Shares of the steps after which the learning rate is divided by ten."""
    warmup: int
    """Steps."""
    batch_size: int
    """Images a step, over all processes."""
    lr: float
    precise_bn: int
    """Number of batches over which batch norm's statistics are averaged before testing."""
    sizes: Sizes

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        milestones = [round(share * self.steps) for share in self.milestones]
        rate = learning_rate(step, self.steps, self.lr, schedule="step", milestones=milestones)
        return rate * linear_warmup(step, self.warmup, WARMUP_START)


def sides(first: int, last: int) -> tuple[int, ...]:
    """Return the sides from least to largest in steps of 32, both ends included."""
    return tuple(range(first, last + 1, 32))


SCHEDULES: dict[Dataset, DetectionSchedule] = {
    # He 2020 (arXiv:1911.05722), whose detection code Un-Mix uses unchanged: for 16 images a step
    "voc": DetectionSchedule(24_000, (3 / 4, 11 / 12), 100, 16, 0.02, 200, Sizes(sides(480, 800))),
    "coco": DetectionSchedule(180_000, (2 / 3, 8 / 9), 1000, 16, 0.02, 200, Sizes(sides(640, 800))),
    "demo": DetectionSchedule(120, (3 / 4,), 10, 4, 0.01, 20, Sizes((160, 192), 32, 50, grid=7)),
}
