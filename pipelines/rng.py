"""The random numbers of each row: a counter-based generator without state.

``RowRng(seed, epoch).uniform(rows, view, count)`` depends on its arguments only. The result is the
same in any process and for any batch size, worker count or world size; a resumed run restores no
state. The generator is splitmix64 (Steele et al. 2014), seeded by the row and stepped by
(view, slot).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SLOTS = 64
"""Numbers that a view may draw for a row."""

ORDER = 1 << 20
"""The stream, numbered like a view, from which ``Sampler`` shuffles."""

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return splitmix64's finalizer of each element; ``x`` is overwritten."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


@dataclass(frozen=True)
class RowRng:
    """The random numbers of one epoch of one seed."""

    seed: int
    epoch: int

    def first_word(self, view: int) -> tuple[np.uint64, np.uint64]:
        """Return the two words that make the first one of each row, for compiled code.

        ``bits(rows, view, 1)`` is ``mix(mix(a + row * golden) + b)`` of them.
        """
        return self._key()[0], np.uint64((view * SLOTS + 1) * _GOLDEN & _MASK)

    def bits(self, rows: NDArray[np.int64], view: int, count: int) -> NDArray[np.uint64]:
        """Return ``count`` (at most 64) independent 64-bit words for each row, (n, count)."""
        row_key = _mix(self._key() + rows.astype(np.uint64) * np.uint64(_GOLDEN))
        slots = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(view * SLOTS)
        return _mix(row_key[:, None] + slots * np.uint64(_GOLDEN))

    def _key(self) -> NDArray[np.uint64]:
        key = np.array([self.seed & _MASK], np.uint64)
        return _mix(_mix(key) + np.uint64((self.epoch * _GOLDEN + 1) & _MASK))

    def uniform(self, rows: NDArray[np.int64], view: int, count: int) -> NDArray[np.float64]:
        """Return ``count`` independent numbers in [0, 1) for each row, (n, count)."""
        words = self.bits(rows, view, count) >> np.uint64(11)
        return words.astype(np.float64) * 2.0**-53
