"""What all loaders of one comparison have in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.sampler import Sampler
from pipelines.settings import Interpolation
from pipelines.sources.table import Table
from pipelines.views import View


@dataclass(frozen=True)
class Setting:
    """The settings that all contenders of a case share."""

    table: Table
    beton: Table | None
    """The same rows as a .beton, for FFCV's loader; None without FFCV."""
    beton_rows: NDArray[np.int64]
    """Rows of ``table``'s images in that file, (rows,)."""
    order: Sampler
    views: tuple[View, ...]
    complete: bool
    """Whether the augmentation includes color, blur and normalization, not only crops."""
    interpolation: Interpolation
    workers: int
    opponents: Path | None = None
    """A folder with the packages of requirements-bench.txt."""
