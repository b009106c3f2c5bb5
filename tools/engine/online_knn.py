"""The score during training: weighted kNN of the backbone's features (--knn-k, T 0.1)."""

from __future__ import annotations

import sys

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from models.distributed import average_buffers
from models.methods import Method
from pipelines.data_spec import split_sum
from pipelines.sources.overlap import rows_in
from pipelines.sources.table import Table
from tools.config.config import Config, ResolvedConfig
from tools.engine import build
from tools.engine.compiled import rows_vary
from tools.engine.data import Data
from tools.scoring.features import extract
from tools.scoring.knn import knn, remarks, voters

BATCH = 256


def why_off(config: Config, data: Data) -> str | None:
    """Return why there can be no score, or None.

    Raises:
        ValueError: there can be none, and --keep-best needs it.
    """
    reason = _why_off(config, data)
    if reason is not None and config.keep_best:
        raise ValueError(f"--keep-best needs kNN scores, and kNN is off: {reason}")
    return reason


def _why_off(config: Config, data: Data) -> str | None:
    if config.knn_every == 0:
        return "--knn-every 0"
    if not (data.train.label >= 0).any():
        return f"the training images have no labels ({_way_to_labels(config)})"
    if data.val is None:
        return (
            "no validation images (--val-data names some; --val-fraction 0.1 keeps a tenth of "
            "--data for them)"
        )
    if not (data.val.label >= 0).any():
        return "the validation images have no labels (--val-data names others)"
    return None


def _way_to_labels(config: Config) -> str:
    """Return what gives labels to the first data set."""
    first = split_sum(config.data)[0]
    if first.startswith("wds:"):
        member = "a member .cls, a field of .json"
        return f"{member}, or what --label-key names, gives them"
    if first.startswith("list:"):
        return "a second word of each line gives them"
    return "class folders give them"


class OnlineKnn:
    """Scores the method on the validation images; ``off`` is the reason if it cannot, or None.

    ``remarks`` are lines about what distorts the score, the same that ``eval.py knn`` prints.
    """

    def __init__(
        self,
        config: ResolvedConfig,
        data: Data,
        decoders: build.Decoders,
        method: Method,
        accelerator: Accelerator,
    ) -> None:
        self._config, self._data = config, data
        self._decoders, self._method, self._accelerator = decoders, method, accelerator
        self.off = why_off(config, data)
        self.remarks: list[str] = []
        if self.off is None and data.val is not None:
            self._prepare(data.train, data.val)

    def _prepare(self, train: Table, val: Table) -> None:
        """Choose the labelled rows and the number of neighbours that vote."""
        device = self._accelerator.device
        self._rows = {id(table): np.flatnonzero(table.label >= 0) for table in (train, val)}
        bank, queries = (
            table if len(rows := self._rows[id(table)]) == len(table) else table.take(rows)
            for table in (train, val)
        )
        self._labels = [torch.from_numpy(table.label).to(device) for table in (bank, queries)]
        own = rows_in(queries, bank)
        self._own = torch.from_numpy(own).to(device) if (own >= 0).any() else None
        wanted = self._config.knn_k
        self._k = max(min(wanted, voters(self._labels[0], self._own)), 1)
        bank_labels, labels = self._labels
        self.remarks = remarks(
            bank_labels,
            labels,
            self._k,
            self._own,
            wanted=wanted,
            class_name=train.class_name,
            flag="--knn-k",
        )

    def due(self, step: int, steps_per_epoch: int) -> int:
        """Return the first step after ``step`` at which a score is due."""
        if self.off:
            return sys.maxsize
        period = self._config.knn_every * steps_per_epoch
        return (step // period + 1) * period

    def score(self) -> dict[str, float]:
        """Return the current ``knn_top1`` and ``knn_top5``, and the ``knn_k`` that voted.

        All processes call it.
        """
        assert self._data.val is not None
        average_buffers(self._method)
        bank, queries = map(self._labelled_features, (self._data.train, self._data.val))
        bank_labels, labels = self._labels
        found = knn(bank, bank_labels, queries, labels, k=self._k, own=self._own)
        return found | {"knn_k": self._k}

    def _labelled_features(self, table: Table) -> Tensor:
        """Return the features, (n, d), of the rows that have a label."""
        method, accelerator = self._method, self._accelerator
        rows: NDArray[np.int64] = self._rows[id(table)]
        batches = build.evaluation_batches_of(
            self._config, table, self._data.facts, self._decoders, accelerator, BATCH, rows
        )
        if self._config.compile:
            batches = rows_vary(batches)
        return extract(method, method.features, batches, len(rows), accelerator, half=True)
