"""How many workers fit this process, and processes that import what they run and nothing else."""

from __future__ import annotations

import multiprocessing
import os
import sys
import types
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

import psutil


def cores_per_process() -> int:
    """Return this process's share of the cores it may run on, at least one."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))
    allowed = len(psutil.Process().cpu_affinity() or [0])
    return max(allowed // local, 1)


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
