"""Worker processes that import what they run and nothing else."""

from __future__ import annotations

import multiprocessing
import sys
import types
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager


def worker_pool(workers: int | None = None) -> ProcessPoolExecutor:
    """A pool whose processes are not copies of this one, whose threads must not be forked."""
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("forkserver"))


@contextmanager
def main_hidden() -> Iterator[None]:
    """While tasks are submitted: start workers without the program's main module.

    They would import it first, ``train.py`` and torch with it (ten seconds each), or fail where
    it is no file (a shell, a notebook).
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
