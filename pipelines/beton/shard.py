"""One of several parts of a data set that several machines write, each its own ``.beton``."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipelines.beton.encode import Settings
from pipelines.sources.table import Table
from pipelines.system.units import counted


@dataclass(frozen=True, slots=True)
class Shard:
    """Part ``number``, counted from 0, of ``of`` parts."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the part that ``I/N`` means.

        Raises:
            ValueError: it has another form, or there is no such part.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if match is None:
            raise ValueError(f"--shard {text}: write I/N, as 0/4 for the first of four parts")
        number, of = int(match[1]), int(match[2])
        if not number < of:
            there = f"the parts of {of} are 0/{of} to {of - 1}/{of}" if of else "there is no part"
            raise ValueError(f"--shard {text}: {there}")
        return cls(number, of)

    def take(self, table: Table) -> Table:
        """Return the rows of this part: contiguous, with sizes that differ by one row at most.

        Raises:
            ValueError: there are fewer rows than parts.
        """
        rows = len(table)
        if self.of > rows:
            raise ValueError(
                f"--shard {self.number}/{self.of}: {counted(rows, 'image')} "
                f"{'makes' if rows == 1 else 'make'} {counted(rows, 'part')} at most"
            )
        begin, end = (rows * i // self.of for i in (self.number, self.number + 1))
        return table.take(np.arange(begin, end))

    def manifest(self, whole: Table, settings: Settings) -> dict[str, Any]:
        """Return the entry ``shard`` of the part's manifest.

        Parts belong together if they have the same number of parts and the same listing.
        """
        return {"number": self.number, "of": self.of, "listing": listing(whole, settings)}


def listing(table: Table, settings: Settings) -> str:
    """Return a digest of what all parts share: the rows in their order, and how they are stored.

    A row is its label, its size and the last part of its name, so that machines may see the files
    below different folders.
    """
    stored = {name: value for name, value in asdict(settings).items() if name != "workers"}
    digest = hashlib.sha256(repr((stored, table.source.rules, table.classes)).encode())
    for column in (table.label, table.height, table.width):
        digest.update(np.ascontiguousarray(column, np.int64).data)
    for row in range(len(table)):
        digest.update(os.fsencode(table.source.name(row).rpartition("/")[2] + "\n"))
    return digest.hexdigest()[:16]
