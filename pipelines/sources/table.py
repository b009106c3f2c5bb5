"""The rows of a data set: label, size and source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.sources.source import Source


@dataclass(frozen=True)
class Table:
    """N rows of a data set; ``label`` is -1 without classes, sizes are the upright image's."""

    label: NDArray[np.int64]
    height: NDArray[np.int32]
    width: NDArray[np.int32]
    source: Source
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.label)

    @property
    def channels(self) -> int:
        """Channels of the decoded images: 3 is RGB, 1 is gray."""
        return self.source.rules.channels

    def class_name(self, label: int) -> str:
        """Return the name of a class, or its number if classes have no names."""
        return self.classes[label] if label < len(self.classes) else f"class {label}"

    def in_file_order(self) -> NDArray[np.int64]:
        """Return the rows in the order of their bytes, (N,); files are in the order of the list."""
        return self.source.file_order()

    def take(self, rows: NDArray[np.int64]) -> Table:
        """Return these rows only, renumbered from 0; the classes stay."""
        return Table(
            self.label[rows],
            self.height[rows],
            self.width[rows],
            self.source.take(rows),
            self.classes,
        )


def check_normalization(table: Table, mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuse a mean and a deviation that have not one value for each channel of the images.

    Raises:
        ValueError: naming both numbers.
    """
    if not len(mean) == len(std) == table.channels:
        raise ValueError(
            f"mean has {len(mean)} values and std {len(std)}, and the images have "
            f"{table.channels} channels: --mean and --std take one value for each"
        )
