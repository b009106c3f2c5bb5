"""The state of training, saved to and restored from one checkpoint file."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, reduce
from torch.optim import Optimizer

from models.distributed import average_buffers
from models.methods import Method
from pipelines.remote.errors import without_query
from pipelines.sources.table import Table
from pipelines.system.progress import print_once
from tools.config.cli import differences, from_saved, to_dict
from tools.config.config import ResolvedConfig
from tools.distributed.coordination import main_process_first
from tools.runs import checkpoint

log = logging.getLogger(__name__)

FIRST_MINUTES = 5
"""Minutes of training after which the first checkpoint is written, at the latest."""


class TrainState:
    """The method (with its EMA, queue, prototypes), the optimiser and the loss scaler.

    ``neighbors`` holds CLIM's last neighbour table (``tools.engine.clim_refresh``), or None;
    ``left_out`` the steps that are skipped (``tools.engine.rollback``); ``last_good`` the
    checkpoint that this process loaded or wrote last; ``best`` the step and kNN score of the best
    one (``--keep-best``); ``loader`` the decoder that training uses; ``epochs_before`` the --epochs
    of the checkpoint that was restored.
    """

    def __init__(
        self,
        method: Method,
        optimizer: Optimizer,
        config: ResolvedConfig,
        data: Table,
        folder: Path,
        accelerator: Accelerator,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._saved_at = clock, clock()
        self._has_saved = False  # of training: the untrained weights do not count
        self._keep_each = config.keep_every_epochs * (len(data) // config.batch_size)
        self._method, self._optimizer = method, optimizer
        self.neighbors: dict[str, Any] | None = None
        self.left_out: set[int] = set()
        self.last_good: Path | None = None
        self.epochs_before = config.epochs
        self.best: dict[str, Any] | None = None
        self.loader: str = config.loader
        self._data = {"images": len(data), "key": key_of(data)}
        if config.order == "blocks":  # the rows of a step depend on the places of their bytes
            self._data["file_order"] = hashlib.sha256(data.in_file_order().data).hexdigest()[:16]
        self.folder, self._config, self._accelerator = folder, config, accelerator

    def weigh(self, weights: int) -> None:
        """Make the checksum of ``--balance``'s weights a part of what a resume compares."""
        self._data["weights"] = weights

    def identify(self, content: str) -> None:
        """Make a digest of images (``sample_key``) a part of what a resume compares."""
        self._data["content"] = content

    def is_over(self, step: int, steps_per_epoch: int) -> bool:
        """Whether other --epochs than the checkpoint's leave nothing to train after ``step``."""
        epochs = self._config.epochs
        return epochs != self.epochs_before and step >= epochs * steps_per_epoch

    def is_due(self, step: int, at_log: bool) -> bool:
        """Whether to save after ``step`` steps; all processes call it and get the same answer.

        The minutes since the last checkpoint are the first process's. Several processes compare
        them at log lines only, and so does one process after the first checkpoint.
        """
        config = self._config
        if self.best is not None and self.best["step"] == step:
            return True
        if step % config.checkpoint_every == 0 or (self._keep_each and step % self._keep_each == 0):
            return True
        alone = self._accelerator.num_processes == 1
        if not config.checkpoint_minutes or not (at_log or (alone and not self._has_saved)):
            return False
        minutes = config.checkpoint_minutes
        if not self._has_saved:
            minutes = min(minutes, FIRST_MINUTES)
        late = self._clock() - self._saved_at >= 60 * minutes
        if alone:
            return late
        return bool(broadcast(torch.tensor(late, device=self._accelerator.device)).item())

    def scored(self, step: int, score: float) -> None:
        """Note the kNN score of ``step``; with --keep-best, a new best is saved at this step.

        All processes call it, and the first one compares.
        """
        if not self._config.keep_best:
            return
        better = self.best is None or score > self.best["knn_top1"]
        if broadcast(torch.tensor(better, device=self._accelerator.device)).item():
            self.best = {"step": step, "knn_top1": score}

    def save(self, step: int) -> None:
        """Write the checkpoint of ``step`` finished steps; all processes call it.

        Raises:
            OSError: it could not be written; the text names the file.
        """
        average_buffers(self._method)
        self.last_good = main_process_first(self._accelerator, partial(self._write, step))
        self._accelerator.wait_for_everyone()
        self._saved_at = self._clock()
        self._has_saved = step > 0

    def _write(self, step: int) -> Path:
        scaler = self._accelerator.scaler
        state = {
            "method": self._method.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
            "config": to_dict(self._config),
            "data": self._data,
            "neighbours": self.neighbors,
            "left_out": sorted(self.left_out),
            "world_size": self._accelerator.num_processes,
            "loader": self.loader,
            "best": self.best,
        }
        folder, keep = self.folder / "checkpoints", self._config.keep_checkpoints
        best = self.best["step"] if self.best else None
        return checkpoint.save(folder, step, state, keep, self._keep_each, best)

    def _load(self, path: Path) -> dict[str, Any]:
        """Read a checkpoint; if a machine lacks a complete copy, the first process sends it."""
        process = self._accelerator
        wanted = main_process_first(process, partial(checkpoint.signature, path))
        lacks = not process.is_main_process and not checkpoint.is_copy(path, wanted)
        lacking = torch.tensor(float(lacks), device=process.device)
        if not reduce(lacking).item():
            return checkpoint.load(path)
        content = main_process_first(process, path.read_bytes)
        with tempfile.NamedTemporaryFile(suffix=path.name) as copy:
            copy.write(content)
            copy.flush()
            return checkpoint.load(Path(copy.name))

    def restore(self, path: Path) -> int:
        """Load a checkpoint and return its number of finished steps.

        Raises:
            ValueError: it is damaged, or belongs to a run with other settings.
        """
        state = self._load(path)
        before = from_saved(state["config"], str(path))
        changed = differences(self._config, before)
        if changed:
            raise ValueError(
                f"{path} belongs to a run with other settings:\n  " + "\n  ".join(changed)
            )
        if (then := state["data"].get("weights")) != self._data.get("weights"):
            given = (
                f"--balance {self._config.balance}" if self._config.balance else "--data-weights"
            )
            raise ValueError(
                f"{given}: the weights are not those of {path} (checksum "
                f"{then} then, {self._data.get('weights')} now): the rows of a step would differ"
            )
        self._refuse_other_images(path, state["data"], before.data)
        self._method.load_state_dict(state["method"])
        self._optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] and self._accelerator.scaler:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        self.neighbors = state.get("neighbours")
        self.left_out = set(state.get("left_out", ()))
        self.last_good = path
        self.epochs_before = before.epochs
        self._has_saved = state["step"] > 0
        self.best = state.get("best")
        if self.best and not (path.parent / f"step-{self.best['step']}.pt").is_file():
            self.best = None  # a later best took its place, and was given up with its attempt
        return state["step"]

    def _refuse_other_images(self, path: Path, then: Mapping[str, Any], named: str) -> None:
        """Compare the images of a checkpoint, then ``--data named``, with the present ones."""
        now, given = self._data, without_query(self._config.data)
        how = f"{then['images']} then, {now['images']} now"
        names = (then.keys() | now.keys()) - {"content"}
        if all(then.get(name) == now.get(name) for name in names):
            contents = {then.get("content"), now.get("content")}
            if len(contents) == 1 or None in contents:  # None: of an older version
                return
            if without_query(named) != given:  # as a folder that was converted since
                print_once(
                    log,
                    f"note: --data {given} holds other bytes than {without_query(named)} did, "
                    "with the same sizes and labels; it is taken for the same images",
                )
                return
            how = "as many of the same sizes and labels, with other contents"
        raise ValueError(
            f"{path} was trained on other images ({how}): the rows of a step would differ. Give "
            f"the former files back to {given}, or start another run under another --name; "
            f"--init {path} starts it from these weights"
        )


def key_of(data: Table) -> str:
    """Return a digest of a table's rows: their number, order, labels and sizes."""
    digest = hashlib.sha256()
    for column in (data.label, data.height, data.width):
        digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()[:16]
