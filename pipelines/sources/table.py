"""The rows of a data set: label, size, and where the bytes are."""

from __future__ import annotations

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

    def class_name(self, label: int) -> str:
        """The name of the class with this number; where classes have no names, the number."""
        return self.classes[label] if label < len(self.classes) else f"class {label}"

    def in_file_order(self) -> NDArray[np.int64]:
        """The rows in the order of their bytes, (N,); files follow one another as listed."""
        return self.source.file_order()

    def take(self, rows: NDArray[np.int64]) -> Table:
        """These rows alone, renumbered from 0; the classes stay."""
        return Table(
            self.label[rows],
            self.height[rows],
            self.width[rows],
            self.source.take(rows),
            self.classes,
        )
