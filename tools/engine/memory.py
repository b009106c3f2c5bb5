"""Memory that there is, and whether the images that ``--loader memory`` decodes fit into it."""

from __future__ import annotations

import torch

from pipelines.decoders.memory import decoded_bytes
from pipelines.sources.arrays import Arrays
from pipelines.system.units import counted, size_text
from pipelines.system.workers import processes_here
from tools.config.config import Config
from tools.diagnostics import checks
from tools.engine.data import Data, is_held


def notes(config: Config, data: Data) -> list[str]:
    """Return a note if the decoded images take more than the memory that is available here.

    Every process holds all of them; on a GPU, the host does until they are copied. Arrays, such as
    CIFAR's, are in memory already.
    """
    scored = data.val if config.knn_every else None
    tables = [table for table in (data.train, scored) if table is not None]
    held = [t for t in tables if is_held(config, t) and not isinstance(t.source, Arrays)]
    each, processes = sum(map(decoded_bytes, held)), processes_here()
    need, free = each * processes, int(checks.memory() * 2**30)
    if need <= free:
        return []
    shares = f" ({counted(processes, 'process')}, {size_text(each)} each)" if processes > 1 else ""
    return [
        f"note: --loader memory decodes {counted(sum(map(len, held)), 'image')} into "
        f"{size_text(need)} of this machine's memory{shares}, and {size_text(free)} are available: "
        "--loader ffcv and --loader dali decode while training"
    ]


def of_gpu(device: torch.device) -> int | None:
    """Return the bytes of a GPU; None for the host: a dry run may be far from the run's GPU."""
    if device.type != "cuda":
        return None
    return int(torch.cuda.get_device_properties(device).total_memory)
