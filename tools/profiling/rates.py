"""The three rates that bound a run: its loader alone, its step alone, and both together."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.profiler import ProfilerActivity, profile

from pipelines.batch import Batch
from pipelines.loader import Loader
from tools.config.config import Config
from tools.distributed.launch import choose_paths
from tools.engine import build
from tools.engine.data import Data
from tools.engine.device_paths import prove
from tools.engine.throughput import ThroughputMeter
from tools.engine.trainer import Learner, prepare
from tools.profiling.clock import Clock, Seconds

Batches = Generator[Batch, None, None]
Marks = list[list[Any]]

WARMUP = 2
"""Steps before each rate is measured."""
TRACED = 3
"""Steps in a trace."""


def create_learner(
    config: Config, data: Data, decoders: build.Decoders, accelerator: Accelerator
) -> Learner:
    """Build the parts of ``train.train`` that make steps, without those that write files.

    As in a run, ``--device-paths`` holds, and paths are compared before the first step.

    Raises:
        ValueError: the settings do not fit the data, or this device.
    """
    choose_paths(config.device_paths, accelerator.device)
    config, sampler, method = build.assemble(config, data, accelerator)
    model, optimizer = prepare(config, method, accelerator)
    loader = build.training_loader(config, data, decoders, method, accelerator)
    method.train()
    prove(method, loader.maker.decoder, accelerator.device)
    return Learner(config, accelerator, sampler, model, method, optimizer, loader)


def synthetic(loader: Loader, batch: Batch) -> Batch:
    """Return the batch with noise as images, mixed as in step 0."""
    views = tuple(torch.randn_like(view) for view in batch.views)
    mixed = loader.maker.mix(views, 0)[1] if batch.mixed else ()
    plain = views if batch.plain else ()
    return dataclasses.replace(batch, views=views, mixed=mixed, plain=plain)


@dataclass
class Rates:
    """Measures the rates of a learner, each over ``steps`` steps after ``WARMUP`` others.

    ``batch`` is a batch of the loader.
    """

    learner: Learner
    batch: Batch
    steps: int

    def __post_init__(self) -> None:
        self.loader = self.learner.loader
        self.clock = Clock(self.loader.maker.device)

    def loader_alone(self, loader: Loader | None = None) -> float:
        """Return source images/s over all processes if batches are only taken and dropped."""
        loader = loader or self.loader
        return self._measure(
            loader, self._batches(loader), lambda _: self.learner.throughput.step()
        )[0]

    def step_alone(self) -> tuple[float, dict[str, Seconds]]:
        """Return images/s on one synthetic batch, and the seconds of the parts of each step."""
        batch = synthetic(self.loader, self.batch)
        with self._marks() as marks:
            batches = (batch for _ in itertools.count())
            rate = self._measure(self.loader, batches, self._train_on_marked(marks))[0]
        self.learner.metrics.read()
        last = 2 * self.learner.config.accumulate  # where the optimiser begins
        whole = [step for step in marks[WARMUP:] if len(step) == last + 2]  # fp16 may skip a step
        between = self.clock.between
        return rate, {
            "forward": [sum(between(s[i], s[i + 1]) for i in range(0, last, 2)) for s in whole],
            "backward": [sum(between(s[i], s[i + 1]) for i in range(1, last, 2)) for s in whole],
            "optimizer": [between(s[last], s[last + 1]) for s in whole],
        }

    def end_to_end(self) -> tuple[float, float]:
        """Return images/s of loader and step together, and the share of time spent waiting."""
        found = self._measure(self.loader, self._batches(self.loader), self.learner.train_on)
        self.learner.metrics.read()
        return found

    def trace(self, path: Path) -> None:
        """Write a trace of a few end-to-end steps for chrome://tracing or Perfetto."""
        kinds = [ProfilerActivity.CPU]
        kinds += [ProfilerActivity.CUDA] if self.clock.on_gpu else []
        every_thread = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
        with contextlib.closing(self._batches(self.loader)) as batches:
            for batch in itertools.islice(batches, WARMUP):
                self.learner.train_on(batch)
            with profile(activities=kinds, experimental_config=every_thread) as profiler:
                for batch in itertools.islice(batches, TRACED):
                    self.learner.train_on(batch)
                self.clock.wait()
        self.learner.metrics.read()
        if self.learner.accelerator.is_main_process:
            path.parent.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(path))

    def _batches(self, loader: Loader) -> Batches:
        """Yield more batches than are taken, so that prefetching goes on until the last one."""
        yield from loader.batches(0, WARMUP + max(self.steps, TRACED) + loader.prefetch + 1)

    def _measure(
        self, loader: Loader, batches: Batches, work: Callable[[Batch], None]
    ) -> tuple[float, float]:
        """Return the images/s of the slowest process, and the longest wait."""
        accelerator, size = self.learner.accelerator, self.learner.config.batch_size
        accelerator.wait_for_everyone()
        self.learner.throughput = ThroughputMeter(
            size, lambda: loader.waited, loader.maker.device, warmup=WARMUP
        )
        with contextlib.closing(batches):
            for batch in itertools.islice(batches, WARMUP + self.steps):
                work(batch)
            self.clock.wait()
            values = self.learner.throughput.read()
        here = torch.tensor([1 / values["images_per_second"], values["data_wait"]])
        slowest, wait = (
            accelerator.gather(here.to(loader.maker.device)).view(-1, 2).amax(0).tolist()
        )
        return 1 / slowest, wait

    def _train_on_marked(self, marks: Marks) -> Callable[[Batch], None]:
        def work(batch: Batch) -> None:
            marks.append([])
            self.learner.train_on(batch)
            marks[-1].append(self.clock.mark())

        return work

    @contextlib.contextmanager
    def _marks(self) -> Iterator[Marks]:
        """Collect marks of each step: before and after forward, and before the optimiser."""
        marks: Marks = []

        def mark(*_: object) -> None:
            marks[-1].append(self.clock.mark())

        optimizer = self.learner.optimizer
        inner = getattr(optimizer, "optimizer", optimizer)  # Accelerate's wraps torch's
        hooks = [
            self.learner.model.register_forward_pre_hook(mark),
            self.learner.model.register_forward_hook(mark),
            inner.register_step_pre_hook(mark),
        ]
        try:
            yield marks
        finally:
            for hook in hooks:
                hook.remove()
