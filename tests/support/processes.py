"""Groups of gloo processes, forked from a server that has imported the trainer once."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        *("pytest", "train", "eval", "tools.engine.trainer", "tools.engine.start"),
        *("tools.engine.banner", "tools.reporting.write", "tools.plots.views"),
        *("torch._dynamo", "torch.utils.tensorboard"),  # imported at the first step, the first log
    ]
)
"""What takes seconds to import, most of which train.py leaves until its flags are checked."""


def in_group(
    world: int, folder: Path, work: Callable[..., dict[str, Any]], *args: Any
) -> list[dict[str, Any]]:
    """Return what ``work(*args)`` returned in each process of a group of ``world``, by rank."""
    mp.start_processes(_join, (world, folder, work, args), nprocs=world, start_method="forkserver")
    results = [torch.load(folder / f"rank-{rank}.pt") for rank in range(world)]
    assert [result.pop("world_size") for result in results] == [world] * world
    return results


def _join(rank: int, world: int, folder: Path, work: Callable[..., dict], args: tuple) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
    result = work(*args) | {"world_size": dist.get_world_size()}
    torch.save(result, folder / f"rank-{rank}.pt")
    dist.destroy_process_group()
