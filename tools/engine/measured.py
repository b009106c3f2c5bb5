"""What a run measures in its training images before it starts."""

from __future__ import annotations

import dataclasses

from pipelines.data_facts import DataFacts
from pipelines.normalization import pixel_statistics
from pipelines.sources.table import Table
from tools.config.config import Config
from tools.config.pixels import facts_of
from tools.distributed.launch import cores_per_process


def measured_facts(config: Config, train: Table) -> DataFacts:
    """Return the constants of the training images, measured if the settings ask for it."""
    facts = facts_of(config)
    if facts.mean:
        return facts
    found = pixel_statistics(
        train, workers=config.workers or cores_per_process(), on_bad=config.on_bad_image
    )
    return dataclasses.replace(facts, mean=found.mean, std=found.std)
