"""What each of several processes finds about paths that are wrong in one of them."""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.system import device_path
from pipelines.system.device_path import DevicePath, PathRefused

CPU = torch.device("cpu")


def plain(device: torch.device) -> list[Tensor]:
    """Return what is right."""
    return [torch.zeros(2, device=device)]


def wrong_in_the_second(device: torch.device) -> list[Tensor]:
    """Return what is right, but in one process."""
    return [torch.zeros(2, device=device) + dist.get_rank()]


def find() -> dict[str, Any]:
    """Ask for the same paths in all processes; return the answers and what was said."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    device_path.log.addHandler(handler)
    device_path.log.propagate = False
    together = DevicePath("together", wrong_in_the_second, plain, 0.1, together=True)
    alone = DevicePath("alone", wrong_in_the_second, plain, 0.1)
    nowhere = DevicePath("nowhere", lambda device: [torch.ones(2)], plain, 0.1)
    used = [path.usable(CPU) for path in (together, alone, nowhere)]
    with device_path.only("fused", [together]):
        try:
            together.usable(CPU)
            refused = ""
        except PathRefused as error:
            refused = str(error)
    return {"used": used, "said": said, "refused": refused}
