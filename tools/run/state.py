"""Everything that changes while a run trains, saved to and restored from one file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from torch.optim import Optimizer

from models.distributed import average_buffers
from models.methods import Method
from pipelines.table import Table
from tools.run import checkpoint
from tools.run.config import Config
from tools.run.flags import differences, from_dict, to_dict


class State:
    """The method (with its EMA, queue, prototypes), the optimiser and the loss scaler."""

    def __init__(
        self,
        method: Method,
        optimizer: Optimizer,
        config: Config,
        data: Table,
        folder: Path,
        accelerator: Accelerator,
    ) -> None:
        self._method, self._optimizer = method, optimizer
        self._data = {"images": len(data), "key": key_of(data)}
        self.folder, self._config, self._accelerator = folder, config, accelerator

    def save(self, step: int) -> None:
        """Write the checkpoint of ``step`` finished steps; all processes call it together."""
        average_buffers(self._method)
        if self._accelerator.is_main_process:
            scaler = self._accelerator.scaler
            state = {
                "method": self._method.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "scaler": scaler.state_dict() if scaler else None,
                "config": to_dict(self._config),
                "data": self._data,
                "world_size": self._accelerator.num_processes,
            }
            folder = self.folder / "checkpoints"
            checkpoint.save(folder, step, state, self._config.keep_checkpoints)
        self._accelerator.wait_for_everyone()

    def restore(self, path: Path) -> int:
        """Load a checkpoint and return its number of finished steps.

        Raises:
            ValueError: it is damaged, or belongs to a run with other settings.
        """
        state = checkpoint.load(path)
        changed = differences(self._config, from_dict(state["config"], str(path)))
        if changed:
            raise ValueError(
                f"{path} belongs to a run with other settings:\n  " + "\n  ".join(changed)
            )
        if state["data"] != self._data:
            raise ValueError(
                f"{path} was trained on other images ({state['data']['images']} then, "
                f"{self._data['images']} now): the rows would not be the same"
            )
        self._method.load_state_dict(state["method"])
        self._optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] and self._accelerator.scaler:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        return state["step"]


def key_of(data: Table) -> str:
    """Return a digest of a table's rows: their number, order, labels and sizes."""
    digest = hashlib.sha256()
    for column in (data.label, data.height, data.width):
        digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()[:16]
