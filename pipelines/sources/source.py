"""The contract of all sources."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pipelines.sources.image_file import ImageRules


@runtime_checkable
class Source(Protocol):
    """Where the bytes of the rows are."""

    @property
    def rules(self) -> ImageRules:
        """What the rows' files become; ``rules.channels`` is the last axis of ``pixels``."""

    def name(self, row: int) -> str:
        """Return a readable name of the row: a path, or ``FILE row 17``."""

    def encoded(self, row: int) -> NDArray[np.uint8] | None:
        """Return the row's encoded bytes, (bytes,), or None if it is stored as pixels."""

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """Return the row decoded by PIL, upright, (h, w, channels); raises ``BadImage``."""

    def file_order(self) -> NDArray[np.int64]:
        """Return the rows in the order of their bytes, (N,); files are in the order of the list."""

    def take(self, rows: NDArray[np.int64]) -> Source:
        """Return these rows only, renumbered from 0."""

    def will_need(self, rows: NDArray[np.int64]) -> None:
        """Request the rows' bytes, and do not wait for them; this may be ignored."""

    def held(self, rows: NDArray[np.int64]) -> AbstractContextManager[None]:
        """Return a context in which the rows can be read without waiting.

        A decoder is called inside it. ``encoded`` and ``pixels`` work outside of it as well.
        """

    def forget(self, rows: NDArray[np.int64]) -> None:
        """Advise the operating system to drop the rows' bytes, so that the next read is cold."""
