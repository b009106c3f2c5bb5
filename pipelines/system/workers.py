"""The number of workers of this process, and worker processes that import only what they run."""

from __future__ import annotations

import multiprocessing
import os
import sys
import types
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

import psutil


def processes_here() -> int:
    """Return the number of the launcher's processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))


def cores_per_process() -> int:
    """Return this process's share of the cores it may run on, at least one."""
    allowed = len(psutil.Process().cpu_affinity() or [0])
    return max(allowed // processes_here(), 1)


def worker_pool(workers: int | None = None) -> ProcessPoolExecutor:
    """Return a process pool that does not fork this process, because it has threads."""
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("forkserver"))


@contextmanager
def main_hidden() -> Iterator[None]:
    """Hide the main module while tasks are submitted, so that workers do not import it.

    Importing it would load ``train.py`` and torch (ten seconds for each worker), or fail if it is
    no file (in a shell or a notebook).
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
