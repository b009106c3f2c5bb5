"""``--dry-run``: settings, steps and estimated memory of a run, without training."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable

import torch
import yaml
from accelerate import Accelerator
from torch import Tensor

from models.methods import Method
from pipelines.batch import Batch, Mixed
from pipelines.settings import AMONG_MIXTURES
from pipelines.sources.published import NotDownloaded, stand_in
from pipelines.sources.subset import divide
from pipelines.views import ViewPlan, table_of
from tools.config.cli import to_dict
from tools.config.config import Config, ResolvedConfig
from tools.config.pixels import facts_of
from tools.engine.data import Data, decode_bounds, open_data_of


def open_without_download(config: Config, accelerator: Accelerator) -> tuple[Data, list[str]]:
    """Open the data; a missing published set is replaced by a table of its known sizes.

    Returns:
        The data, and a line for each missing set: what to fetch, and where to put it.

    Raises:
        ValueError: as ``open_data_of``; or the settings depend on the missing images.
    """
    missing: list[str] = []
    without_val = dataclasses.replace(config, val_data="none")
    try:
        return open_data_of(config, accelerator, download=False), missing
    except NotDownloaded as error:
        missing.append(f"missing data: {error}")
    try:
        return open_data_of(without_val, accelerator, download=False), missing
    except NotDownloaded:
        pass  # the training images are missing
    if config.classes is not None:
        raise ValueError(f"--classes {config.classes} needs the images of --data: {missing[0]}")
    facts = facts_of(config)
    if not facts.mean:
        raise ValueError(f"--normalize data needs the images of --data: {missing[0]}")
    train, val = divide(stand_in(config.data, config.in_chans), config)
    return Data(train, val, facts), missing


def describe(
    config: ResolvedConfig, method: Method, plan: ViewPlan, steps: int, rows: int, room: int | None
) -> str:
    """Return the resolved settings, the views, the steps and the estimated device memory, as text.

    Args:
        config: the settings.
        method: the method with its backbone.
        plan: the views.
        steps: number of steps of an epoch.
        rows: this process's share of a batch.
        room: bytes that the GPU has, which a larger estimate notes; None: unknown.
    """
    weights, activations = memory(config, method, plan, rows // config.accumulate)
    lines = [
        yaml.safe_dump(to_dict(config), sort_keys=False).rstrip(),
        *table_of(plan.views),
        f"steps: {steps:,} an epoch, {steps * config.epochs:,} in all, "
        f"{rows} images each on every process",
        f"device memory, estimated: {weights / 2**30:.2f} GiB for weights, gradients, optimiser "
        f"and method state, {activations / 2**30:.2f} GiB for a step's activations"
        + (f" ({rows // config.accumulate} images at a time)" if config.accumulate > 1 else ""),
    ]
    if room is not None and weights + activations > room:
        lines.append(
            f"note: the GPU has {room / 2**30:.2f} GiB: a smaller --batch-size, --accumulate, "
            "--precision bf16 or more processes take less"
        )
    return "\n".join(lines)


def describe_decoding(config: ResolvedConfig, data: Data, device: torch.device, rows: int) -> str:
    """Return the memory that decoded images take at a time on this process, a line a loader.

    ``rows`` is this process's share of a batch; the loader that the run takes comes first.
    """
    chosen, found = decode_bounds(config, data, device, rows)
    order = sorted(found, key=lambda loader: loader != chosen)
    lines = [
        f"  {loader:<7} {found[loader].bytes / 2**20:,.1f} MiB: {found[loader].what}"
        + (" (this run)" if loader == chosen else "")
        for loader in order
    ]
    return "\n".join(["decoded images, at most, on each process:", *lines])


def memory(config: ResolvedConfig, method: Method, plan: ViewPlan, rows: int) -> tuple[int, int]:
    """Return the bytes of persistent state and of a step's saved activations.

    The step runs on the meta device, which computes shapes only.
    """
    trained = size_of(p for p in method.parameters() if p.requires_grad)
    persistent = size_of(method.state_dict().values())
    moments = 2 if "adam" in config.optimizer else 1
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    shadow = copy.deepcopy(method).to("meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        shadow(_meta_batch(config, plan, rows))
    parameters = {p.untyped_storage()._cdata for p in shadow.parameters()}
    activations = [t for key, t in saved.items() if key not in parameters]
    share = 0.5 if config.precision in ("bf16", "fp16") else 1.0
    return persistent + (1 + moments) * trained, int(share * size_of(activations))


def size_of(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the tensors' elements."""
    return sum(t.numel() * t.element_size() for t in tensors)


def _meta_batch(config: ResolvedConfig, plan: ViewPlan, rows: int) -> Batch:
    shown = 2 * rows if config.mix == "clim" else rows  # anchors, then their neighbors
    images = tuple(
        torch.empty(shown, config.in_chans, v.size, v.size, device="meta") for v in plan.views
    )
    index = torch.empty(rows, dtype=torch.int64, device="meta")
    share = torch.empty(rows, device="meta")
    among = config.mix in AMONG_MIXTURES  # view 1 is mixed as the query, view 0 as the key
    mixed = tuple(
        Mixed(v, images[v][:rows], index, share, key=among and v == 0)
        for v in ((1, 0) if among else plan.mixed)
    )
    return Batch(images, index, index, index, config.seed, 0, mixed)
