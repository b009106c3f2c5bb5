"""Rows that are image files."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.sources.image_file import RULES, ImageRules, decode
from pipelines.system import page_cache


@dataclass(frozen=True)
class Files:
    """Image files below ``root``, or pages of them."""

    root: Path
    names: Sequence[str]
    rules: ImageRules = RULES
    """What the files become."""
    pages: NDArray[np.int32] | None = field(default=None, repr=False)
    """The page of its file that a row is, (N,), counted from 0; None: the first of each."""
    listed: Path | None = None
    """The file that lists them; None: they are what is below ``root``."""

    def page(self, row: int) -> int:
        """Return the page of its file that the row is, counted from 0."""
        return 0 if self.pages is None else int(self.pages[row])

    def name(self, row: int) -> str:
        """Return the file's path; of its third page ``PATH#3``."""
        page = self.page(row)
        return f"{self.root / self.names[row]}{f'#{page + 1}' if page else ''}"

    def encoded(self, row: int) -> NDArray[np.uint8]:
        """Return the file's bytes."""
        return np.fromfile(self.root / self.names[row], np.uint8)

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """Decode the file or its page with PIL, (h, w, rules.channels)."""
        data = self.encoded(row).tobytes()
        return decode(data, self.name(row), self.rules, self.page(row))

    def file_order(self) -> NDArray[np.int64]:
        """Return the rows in the order of the list."""
        return np.arange(len(self.names))

    def take(self, rows: NDArray[np.int64]) -> Files:
        """Return these files only."""
        pages = None if self.pages is None else self.pages[rows]
        names = [self.names[row] for row in rows]
        return Files(self.root, names, self.rules, pages, self.listed)

    def will_need(self, rows: NDArray[np.int64]) -> None:
        """Request the files' bytes."""
        for row in rows:
            page_cache.will_need(self.root / self.names[row])

    def held(self, rows: NDArray[np.int64]) -> AbstractContextManager[None]:
        """Return a context without effect: files are read when they are decoded."""
        return contextlib.nullcontext()

    def forget(self, rows: NDArray[np.int64]) -> None:
        """Drop the files' bytes from the page cache."""
        for row in rows:
            page_cache.forget(self.root / self.names[row])
