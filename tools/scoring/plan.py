"""The settings of scores: the vote of kNN, the training of a probe. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.settings.base import Distance

Rule = Literal["weighted", "majority"]
"""How neighbours vote: with weights by their similarity, or one vote each."""
NEIGHBORS = 200
"""Neighbours that vote unless a flag says otherwise. Wu 2018, arXiv:1805.01978."""


@dataclass(frozen=True)
class Vote:
    """How neighbours are found and vote."""

    rule: Rule = "weighted"
    distance: Distance = "cosine"


OptimizerName = Literal["sgd", "adam"]
ScheduleName = Literal["cosine", "step", "exponential"]


@dataclass(frozen=True)
class HeadPlan:
    """Training settings of a linear layer on features."""

    epochs: int = 100
    batch_size: int = 256
    optimizer: OptimizerName = "sgd"
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 0.0
    schedule: ScheduleName = "cosine"
    milestones: tuple[int, ...] = ()
    """Epochs after which the step schedule multiplies the learning rate by ``factor``."""
    factor: float = 0.1
    final_lr: float = 1e-6
    """Last learning rate of the exponential schedule; the cosine schedule ends at 0."""

    def rate(self, lr: float, step: int, steps_per_epoch: int) -> float:
        """Return the learning rate at a step, counted from 0, of a layer that starts at ``lr``."""
        from models.optim import learning_rate  # torch, which --help does not import

        return learning_rate(
            step,
            self.epochs * steps_per_epoch,
            lr,
            self.final_lr if self.schedule == "exponential" else 0.0,
            schedule=self.schedule,
            milestones=[epoch * steps_per_epoch for epoch in self.milestones],
            gamma=self.factor,
        )
