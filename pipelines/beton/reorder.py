"""Write rows in another order than they can be read in: first a file in their order, then its rows.

Rows of parquet files cannot be reached by number. They are encoded in their order into a file next
to the wanted one, whose rows can be reached, and copied from there. That file is removed.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.beton.format import Sample, open_beton
from pipelines.beton.writer import write_beton
from pipelines.sources.beton import Beton
from pipelines.sources.parquet_rows import Parquet
from pipelines.sources.table import Table
from pipelines.system.progress import tracked

AHEAD = 256
"""Rows whose bytes are requested together."""


def is_out_of_order(table: Table) -> bool:
    """Whether the rows of the table cannot be read in its order."""
    return isinstance(table.source, Parquet) and not table.source.is_ordered


def write_reordered(
    out: Path, table: Table, samples: Iterable[Sample], written: array[int], page_size: int
) -> int:
    """Write the samples of ``table`` in its order and return their number.

    Args:
        out: the file to make or replace; the disk holds it twice while this runs.
        table: the rows in the order of the result.
        samples: its good rows, encoded, in the order in which they are read.
        written: while they are consumed, the row of each of them is appended here.
        page_size: of the result, as in ``write_beton``.

    Raises:
        ValueError: there is no good row.
        OSError: the file system failed.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent) as name:
        spool = Path(name) / "in-file-order.beton"
        write_beton(spool, samples, len(table), page_size)
        place = np.full(len(table), -1, np.int64)
        place[np.frombuffer(written, np.int64)] = np.arange(len(written))
        copied = _stored(open_beton(spool), place[place >= 0], table.channels)
        shuffled = tracked(copied, len(written), "writing in the wanted order")
        return write_beton(out, shuffled, len(table), page_size)


def _stored(table: Table, rows: NDArray[np.int64], channels: int) -> Iterator[Sample]:
    """Yield rows of a ``.beton`` as they are stored, read and not mapped: it may be large."""
    source = table.source
    assert isinstance(source, Beton)
    parts = [rows[begin : begin + AHEAD] for begin in range(0, len(rows), AHEAD)]
    with source.path.open("rb") as file:
        for part, following in itertools.pairwise([*parts, None]):
            assert part is not None
            if following is not None:
                source.will_need(following)
            for row in part.tolist():
                data = os.pread(file.fileno(), int(source.size[row]), int(source.offset[row]))
                size = int(table.height[row]), int(table.width[row])
                yield Sample(data, *size, bool(source.jpg[row]), int(table.label[row]), channels)
