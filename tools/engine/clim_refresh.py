"""CLIM's neighbour table: when a run refreshes it, and how it is made from the current weights."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from models.clustering import Features, Watch, nearest, own_range, spherical_kmeans, unwatched
from models.distributed import average_buffers
from models.losses.common import unit
from models.methods import Method
from models.modules.backbone import num_features
from pipelines.loader import Loader
from pipelines.mixtures.clim import Clim, NeighborTable, RandomNeighbors, tabulate
from pipelines.mixtures.clim_rules import Candidates, Selection, purity, select
from tools.config.clim import ClimConfig, num_clusters
from tools.config.config import ResolvedConfig
from tools.engine import build
from tools.engine.compiled import rows_vary
from tools.engine.data import Data
from tools.engine.logger import RunLogger
from tools.engine.train_state import TrainState
from tools.scoring.features import evaluating

BATCH = 256
_KMEANS = 1 << 22
"""The stream that draws the first centres."""


@dataclass(frozen=True)
class Neighborhood:
    """Each row's candidates, and those that the rule keeps."""

    candidates: Candidates
    selection: Selection


def find(
    features: Features, config: ClimConfig, seed: int, step: int, watch: Watch = unwatched
) -> Neighborhood:
    """Find, cluster and select the neighbours of every row, the same on every rank."""
    rng = np.random.default_rng([seed, step, _KMEANS])
    clusters = spherical_kmeans(features, num_clusters(config, features.total), rng, watch=watch)
    near = nearest(features, clusters, config.neighbours, watch)

    def joined(own: Tensor) -> NDArray[Any]:
        own = own if own.is_floating_point() else own.int()
        return features.join(own).cpu().numpy()

    index = joined(near.index)
    cluster, to_center = joined(clusters.cluster), joined(clusters.similarity)
    candidates = Candidates(
        index=index,
        similarity=joined(near.similarity),
        to_center=joined(near.to_center),
        cluster=cluster[index],
        to_own_center=to_center[index],
        anchor_cluster=cluster,
        anchor_to_center=to_center,
    )
    return Neighborhood(candidates, select(candidates, config.rule, config.limit))


def statistics(found: Neighborhood, label: NDArray[np.int64]) -> dict[str, float]:
    """Return the numbers that are logged for a table; only they use the labels, (N,)."""
    keep, index = found.selection.keep, found.candidates.index
    anchors = np.arange(len(index))
    return {
        "clim_fallback": float(found.selection.short.mean()),
        "clim_set_size": float(keep.sum(axis=1).mean()),
        "clim_purity": purity(index, keep, anchors, label),
        "clim_candidate_purity": purity(index, np.ones_like(keep), anchors, label),
    }


def encode_all(
    method: Method,
    config: ResolvedConfig,
    data: Data,
    decoders: build.Decoders,
    accelerator: Accelerator,
    watch: Watch = unwatched,
) -> Features:
    """Return unit features of centre crops of all training images, divided over the ranks.

    A rank's rows are whole batches, so each batch is the same for any number of ranks.

    Raises:
        ValueError: the method has no momentum encoder, and the settings choose it.
    """
    total = len(data.train)
    own = own_range(total)
    encoders = method.encoders()
    if config.clim.features == "momentum" and len(encoders) < 2:
        raise ValueError("--clim.features momentum: there is no momentum encoder; take online")
    encoder = encoders[config.clim.features == "momentum"]
    dtype = next(encoder.parameters()).dtype
    batches = build.evaluation_batches_of(
        config,
        data.train,
        data.facts,
        decoders,
        accelerator,
        BATCH,
        np.arange(own.start, own.stop),
        shared=False,
    )
    if config.compile:
        batches = rows_vary(batches)
    rows = torch.empty(
        (len(own), num_features(encoder)),
        dtype=torch.float16 if config.clim.half else torch.promote_types(dtype, torch.float32),
        device=accelerator.device,
    )
    average_buffers(method)
    with evaluating(method), torch.no_grad(), accelerator.autocast():
        turns = watch(range(-(-len(own) // BATCH)), "features")
        for _, (images, places) in zip(turns, batches, strict=True):
            rows[torch.from_numpy(places)] = unit(encoder(images.to(dtype))).to(rows.dtype)
    return Features(rows, total)


class ClimRefresh:
    """The neighbour table of a run with ``--mix clim``; ``off`` in all other runs."""

    def __init__(
        self,
        config: ResolvedConfig,
        data: Data,
        decoders: build.Decoders,
        state: TrainState,
        logger: RunLogger,
        method: Method,
        accelerator: Accelerator,
        steps_per_epoch: int,
    ) -> None:
        self._config, self._data, self._decoders = config, data, decoders
        self._state, self._logger = state, logger
        self._method, self._accelerator = method, accelerator
        self.off = config.mix != "clim"
        self._start = config.clim.start_epoch * steps_per_epoch
        self._period = config.clim.refresh * steps_per_epoch

    def due(self, step: int) -> int:
        """Return the first step after ``step`` before which the table changes."""
        if self.off:
            return sys.maxsize
        if step < self._start:
            return self._start
        return step + self._period - (step - self._start) % self._period

    def at(self, step: int) -> NeighborTable | RandomNeighbors | None:
        """Return the table for steps from ``step`` on, refreshed if due; all ranks call it."""
        num_rows = len(self._data.train)
        if self.off:
            return None
        if step < self._start:
            return NeighborTable.none(num_rows)
        if self._config.clim.rule == "random":
            return RandomNeighbors(num_rows)
        held = self._state.neighbors
        if held is None or held["step"] != step - (step - self._start) % self._period:
            held = self._state.neighbors = self._renew(step)
        return NeighborTable(held["rows"].numpy(), held["count"].numpy())

    def update(self, loader: Loader, step: int) -> None:
        """Set the loader's table for steps from ``step`` on; all ranks call it."""
        table, mixture = self.at(step), loader.maker.mixture
        if table is not None and isinstance(mixture, Clim):
            loader.maker.mixture = dataclasses.replace(mixture, neighbors=table)

    def news(self) -> dict[str, float]:
        """Return the numbers of the last refresh, once."""
        held = self._state.neighbors
        return {} if held is None else held.pop("news", {})

    def _renew(self, step: int) -> dict[str, Any]:
        config, watch = self._config, self._logger.watch
        features = encode_all(
            self._method, config, self._data, self._decoders, self._accelerator, watch
        )
        found = find(features, config.clim, config.seed, step, watch)
        rows, count = tabulate(found.candidates.index, found.selection, config.clim.fallback)
        rows = np.ascontiguousarray(rows[:, : max(int(count.max()), 1)])
        numbers = statistics(found, self._data.train.label)
        self._logger.message(f"step {step:,}: {describe(numbers)}")
        return {
            "step": step,
            "rows": torch.from_numpy(rows),
            "count": torch.from_numpy(count),
            "news": numbers,
        }


def describe(numbers: dict[str, float]) -> str:
    """Format the numbers of a table as a line of text."""
    text = (
        f"{numbers['clim_set_size']:.1f} neighbours an image, "
        f"none or too few for {numbers['clim_fallback']:.1%}"
    )
    if np.isfinite(numbers["clim_purity"]):
        text += (
            f"; of the same class: {numbers['clim_purity']:.1%} of them, "
            f"{numbers['clim_candidate_purity']:.1%} of all candidates"
        )
    return text
