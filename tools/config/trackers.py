"""Settings of the trackers that keep a run on a server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tools.config.section import Section, free

TrackerName = Literal["tensorboard", "wandb", "trackio"]


@dataclass(frozen=True)
class TrackerConfig(Section):
    """Where Weights & Biases and Trackio keep a run (``log_with`` chooses the trackers)."""

    title = "trackers"
    wandb_project: str | None = free(None)
    """Project in Weights & Biases, and in Trackio; None: the name of the run's folder."""
    wandb_entity: str | None = free(None)
    """User or team of Weights & Biases; None: your default."""
    wandb_tags: tuple[str, ...] = free(())
    """Tags of the run in Weights & Biases."""
