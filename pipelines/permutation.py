"""Rows in a random order: sorted by a hash of each, or delayed by a random number of places.

NumPy sorts few rows. From ``LARGE`` on, compiled code gives the same in less time and memory.
"""

from __future__ import annotations

from math import ceil, log2
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.rng import RowRng

LARGE = 1 << 20
"""Rows from which compiled code sorts, and the processes of a machine share the result."""


def row_type(num_rows: int) -> np.dtype[Any]:
    """Return the smallest type of the numbers of so many rows: 4 bytes, or 8."""
    return np.dtype(np.uint32 if num_rows <= 1 << 32 else np.int64)


def sorted_by_hash(rng: RowRng, stream: int, num_rows: int) -> NDArray[Any]:
    """Return the rows 0 to N - 1, sorted by the first word that each draws from a stream, (N,)."""
    if num_rows < LARGE:
        words = rng.bits(np.arange(num_rows), stream, 1)[:, 0]
        return np.argsort(words, kind="stable")
    out = np.empty(num_rows, row_type(num_rows))
    sort_by_hash(rng, stream, out)
    return out


def sort_by_hash(rng: RowRng, stream: int, out: NDArray[Any]) -> None:
    """Fill ``out`` (N,), of a ``row_type``, with the rows 0 to N - 1, sorted as above.

    No more than a few MB are needed beside it.
    """
    from pipelines.system import radix  # numba

    num_rows = len(out)
    bits = ceil((log2(max(num_rows, 2)) + 1) / 2)  # a part is half as long as there are parts
    start = rng.first_word(stream)
    end = np.zeros(1 << bits, np.int64)
    radix.divide(*start, bits, end, out)
    longest = int(np.diff(end, prepend=0).max())
    if longest <= 1 << bits:
        radix.sort_parts(*start, bits, end, longest, out)
    else:  # rare, of few rows: a place in a part takes more bits than the parts leave
        out[:] = np.argsort(rng.bits(np.arange(num_rows), stream, 1)[:, 0], kind="stable")


def order_of(late: NDArray[np.float64]) -> NDArray[Any]:
    """Return the stable order of places (n,), each at least its index: delayed by some numbers."""
    if len(late) < LARGE:
        return np.argsort(late, kind="stable")
    from pipelines.system import radix  # numba

    return np.asarray(radix.sort_delayed(late))
