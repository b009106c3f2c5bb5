"""Where the bytes of the rows are: the contract of all sources."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@runtime_checkable
class Source(Protocol):
    """Where the bytes of the rows are."""

    def name(self, row: int) -> str:
        """What a person would call the row: a path, or ``FILE row 17``."""

    def encoded(self, row: int) -> NDArray[np.uint8] | None:
        """The row's encoded bytes, (bytes,), or None when it is stored as pixels."""

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """The row decoded by the oracle (PIL), upright RGB, (h, w, 3); raises ``BadImage``."""

    def file_order(self) -> NDArray[np.int64]:
        """The rows in the order of their bytes, (N,); files follow one another as listed."""

    def take(self, rows: NDArray[np.int64]) -> Source:
        """These rows alone, renumbered from 0."""

    def will_need(self, rows: NDArray[np.int64]) -> None:
        """Let the system begin to read the rows' bytes; advice, which costs and promises little."""

    def forget(self, rows: NDArray[np.int64]) -> None:
        """Let the system drop the rows' bytes from memory, so that they are read cold."""
