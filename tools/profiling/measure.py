"""The profile of a run: its stages, its three rates, and the bottleneck."""

from __future__ import annotations

import dataclasses
import logging
import resource
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from pipelines.loader import Loader
from tools.config.cli import to_dict
from tools.config.config import Config
from tools.distributed.launch import cores_per_process
from tools.engine import build
from tools.engine.data import Data, open_data_of
from tools.engine.trainer import Learner
from tools.profiling.bottleneck import Bottleneck
from tools.profiling.clock import Seconds
from tools.profiling.io import Fetches, Reads
from tools.profiling.rates import Rates, create_learner
from tools.profiling.stages import Stages
from tools.runs.machine import commit, machine

log = logging.getLogger(__name__)

RATES = ("loader", "step", "end_to_end")


def profile(
    config: Config,
    accelerator: Accelerator,
    *,
    steps: int,
    repeats: int,
    workers: Sequence[int] = (),
    trace: Path | None = None,
) -> dict[str, Any]:
    """Measure stages and rates; return the content of the JSON file, without the command.

    Args:
        config: settings of the run, as for train.py.
        accelerator: the processes that measure together.
        steps: steps of each measurement of a rate.
        repeats: measurements of each number.
        workers: numbers of workers with which the loader alone is also measured.
        trace: file for the trace of a few steps, or None.
    """
    if accelerator.is_main_process:
        log.setLevel(logging.INFO)
    with ExitStack() as stack:
        data = open_data_of(dataclasses.replace(config, val_data="none"), accelerator)
        decoders = build.Decoders(config, accelerator, log.info)
        stack.callback(decoders.close)
        learner = create_learner(config, data, decoders, accelerator)
        config = learner.config
        log.info("stages ...")
        stages = Stages(learner.loader, repeats)
        seconds = stages.measure()
        rates = Rates(learner, stages.batch, steps)
        rounds, waits = measure_rates(rates, repeats, seconds)
        sweep = []
        for number in workers:
            log.info("loader alone, %d workers ...", number)
            loader = loader_with(number, learner, data, stack)
            found = [rates.loader_alone(loader) for _ in range(repeats)]
            sweep.append({"workers": number} | middle_and_spread(found))
        if trace:
            rates.trace(trace)
    return summary(config, learner.loader, stages, seconds, rounds, waits, accelerator) | {
        "sweep_workers": sweep,
        "commit": commit(),
        "steps": steps,
        "repeats": repeats,
    }


def loader_with(workers: int, learner: Learner, data: Data, stack: ExitStack) -> Loader:
    """Return the learner's loader with another number of workers."""
    config = dataclasses.replace(learner.config, workers=workers)
    decoders = build.Decoders(config, learner.accelerator, log.debug)
    stack.callback(decoders.close)
    return build.training_loader(config, data, decoders, learner.method, learner.accelerator)


def measure_rates(
    rates: Rates, repeats: int, seconds: dict[str, Seconds]
) -> tuple[dict[str, list[float]], list[float]]:
    """Return the three rates, measured in turn, and the waits; add step parts to ``seconds``."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    found: dict[str, list[float]] = {name: [] for name in RATES}
    waits = []
    for turn in range(repeats):
        log.info("loader alone, step alone, end to end: %d of %d ...", turn + 1, repeats)
        found["loader"].append(rates.loader_alone())
        step, parts = rates.step_alone()
        found["step"].append(step)
        for name, values in parts.items():
            seconds.setdefault(name, []).extend(values)
        end_to_end, wait = rates.end_to_end()
        found["end_to_end"].append(end_to_end)
        waits.append(wait)
    return found, waits


def middle_and_spread(values: list[float]) -> dict[str, Any]:
    """Return the median rate with its lowest and highest value."""
    return {"images_per_second": statistics.median(values), "spread": [min(values), max(values)]}


def summary(
    config: Config,
    loader: Loader,
    stages: Stages,
    seconds: dict[str, Seconds],
    rounds: dict[str, list[float]],
    waits: list[float],
    accelerator: Accelerator,
) -> dict[str, Any]:
    """Return medians, spreads and the bottleneck, with the settings and the machine."""
    rates = {f"{name}_images_per_second": values for name, values in rounds.items()}
    ceiling = [config.batch_size / value for value in seconds.get("decode", [])]
    if ceiling:
        rates["decode_ceiling_images_per_second"] = ceiling
    middle = {name: statistics.median(v) for name, v in seconds.items()}
    medians = {name: statistics.median(v) for name, v in rates.items()}
    on_gpu = accelerator.device.type == "cuda"
    workers = config.workers or cores_per_process()
    bottleneck = Bottleneck(
        **{name: medians[f"{name}_images_per_second"] for name in RATES},
        stages=middle,
        shared=stages.decoded_on_gpu or not on_gpu,
        on_gpu=on_gpu,
        workers=workers,
        batch_size=config.batch_size,
    )
    every = {**seconds, **rates, "data_wait": waits}
    return {
        **{"decode_ceiling_images_per_second": None, **medians},
        "data_wait": statistics.median(waits),
        "bottleneck": bottleneck.sentence(),
        "stages": middle,
        "timed": {name: stages.timed(name) for name in middle},
        "spread": {name: [min(values), max(values)] for name, values in every.items()},
        "expected_images_per_second": bottleneck.expected,
        "expected_law": bottleneck.formula,
        "rows": len(stages.tap.rows),
        "workers": workers,
        "processes": accelerator.num_processes,
        "read_cold_bytes_per_second": cold_rate(stages.reads),
        "fetch": fetch_rates(stages.fetches),
        "finisher_bytes": augment_bytes(stages.augment_bytes(), middle["finish"]),
        "peak_host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "peak_device_bytes": torch.cuda.max_memory_allocated() if on_gpu else 0,
        "machine": machine(accelerator.device),
        "config": to_dict(config),
    }


def cold_rate(reads: Reads | None) -> float | None:
    """Return the bytes/s of cold reads; None if there were none."""
    return reads.bytes_per_second if reads and reads.was_cold else None


def fetch_rates(fetches: Fetches | None) -> dict[str, float] | None:
    """Return the rate of fetching remote images, and what it costs; None if none was fetched."""
    if fetches is None:
        return None
    return {
        "images_per_second": fetches.images_per_second,
        "bytes_per_second": fetches.bytes_fetched / sum(fetches.seconds),
        "requests_per_image": fetches.requests / fetches.num_rows,
        "over_read": fetches.over_read,
    }


def augment_bytes(counted: tuple[int, int] | None, seconds: float) -> dict[str, float] | None:
    """Return the bytes that augmentation moves, the least possible, their ratio, and bytes/s."""
    if counted is None:
        return None
    moved, least = counted
    rate = moved / seconds
    return {"moved": moved, "least": least, "ratio": moved / least, "bytes_per_second": rate}
