"""Progress of long loops: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")


log = logging.getLogger(__name__)


_printed: set[str] = set()


def print_once(logger: logging.Logger, line: str, level: int = logging.WARNING) -> None:
    """Log a line once in the life of the first process of a run; the others stay silent."""
    if line not in _printed and os.environ.get("RANK", "0") == "0":
        _printed.add(line)
        logger.log(level, "%s", line)


LINE_SECONDS = 30.0
"""Seconds between log lines without a terminal."""


def _one(_: object) -> int:
    return 1


def tracked(
    items: Iterable[T], total: int, what: str, size: Callable[[T], int] = _one
) -> Iterator[T]:
    """Yield ``items`` and show a progress bar with ETA; without a terminal, log lines.

    ``size`` is the share of ``total`` that an item is.
    """
    if not sys.stderr.isatty():
        yield from _logged(items, total, what, size)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        for item in items:
            yield item
            bar.advance(task, size(item))


def _logged(items: Iterable[T], total: int, what: str, size: Callable[[T], int]) -> Iterator[T]:
    begin = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done = min(done + size(item), total)
        now = time.monotonic()
        if now - last > LINE_SECONDS:
            left = (now - begin) / done * (total - done)
            log.info("%s: %d of %d, about %.0f s left", what, done, total, left)
            last = now
