"""The score during training: weighted kNN of the backbone's features (k 200, T 0.1)."""

from __future__ import annotations

import sys

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from models.distributed import average_buffers
from models.methods import Method
from pipelines.sources.table import Table
from tools.config.config import ResolvedConfig
from tools.engine import build
from tools.scoring.features import extract
from tools.scoring.knn import knn

NEIGHBORS = 200
BATCH = 256


class OnlineKnn:
    """Scores the method on the validation images; ``off`` is the reason if it cannot, or None."""

    def __init__(
        self,
        config: ResolvedConfig,
        data: build.Data,
        decoders: build.Decoders,
        method: Method,
        accelerator: Accelerator,
    ) -> None:
        self._config, self._data = config, data
        self._decoders, self._method, self._accelerator = decoders, method, accelerator
        self.off = self._why_not()

    def _why_not(self) -> str | None:
        if self._config.knn_every == 0:
            return "--knn-every 0"
        if self._data.val is None:
            return "no validation images (--val-data)"
        for name, table in (("training", self._data.train), ("validation", self._data.val)):
            if not (table.label >= 0).any():
                return f"the {name} images have no labels"
        return None

    def due(self, step: int, steps_per_epoch: int) -> int:
        """Return the first step after ``step`` at which a score is due."""
        if self.off:
            return sys.maxsize
        period = self._config.knn_every * steps_per_epoch
        return (step // period + 1) * period

    def score(self) -> dict[str, float]:
        """Return the current ``knn_top1`` and ``knn_top5``; all processes call it."""
        assert self._data.val is not None
        average_buffers(self._method)
        train, val = self._data.train, self._data.val
        bank, bank_labels = self._labelled_features(train)
        queries, labels = self._labelled_features(val)
        k = min(NEIGHBORS, len(bank))
        return knn(bank, bank_labels, queries, labels, k=k)

    def _labelled_features(self, table: Table) -> tuple[Tensor, Tensor]:
        """Return features (n, d) and labels (n,) of the rows that have a label."""
        method, accelerator = self._method, self._accelerator
        rows = np.flatnonzero(table.label >= 0)
        batches = build.evaluation_batches_of(
            self._config, table, self._data.facts, self._decoders, accelerator, BATCH, rows
        )
        features = extract(method, method.features, batches, len(rows), accelerator)
        return features, torch.from_numpy(table.label[rows]).to(accelerator.device)
