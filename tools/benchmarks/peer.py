"""Train with lightly's modules and with ours, in turns, and compare images/s and kNN.

Examples:
    pip install lightly    # not a dependency of this project
    python tools/bench.py peer --recipe recipes/cifar10-host.yaml --epochs 1 --workers 2

Takes train.py's flags as well; --method is simclr or moco, and there is no mixture. Both sides have
the same network, initial weights, rows in each step, optimiser, learning rate and augmentation
settings. The peer uses lightly's head, loss and transforms of PIL images, in a DataLoader with as
many processes as we have threads. Both are scored by our kNN.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from models.modules.backbone import create_backbone
from models.optim import create_optimizer
from tools.benchmarks import harness
from tools.benchmarks.harness import cpu_seconds
from tools.benchmarks.lightly_peer import MISSING, Peer, transform
from tools.benchmarks.torch_loader import Workers
from tools.config.cli import parse
from tools.config.config import Config, ResolvedConfig
from tools.config.view_plan import views_of
from tools.distributed.launch import cores_per_process, start
from tools.engine import build
from tools.engine.data import Data, open_data_of
from tools.engine.online_knn import BATCH
from tools.engine.trainer import rate
from tools.profiling.rates import create_learner
from tools.scoring.features import extract
from tools.scoring.knn import knn as knn_accuracy
from tools.scoring.plan import NEIGHBORS

log = logging.getLogger(__name__)

WARM = 8
"""Steps at the start of a turn that are not timed: queues are full and caches are cold."""


@dataclass(frozen=True, kw_only=True)
class Options(harness.Options):
    """Train with lightly's modules and with ours, in turns; print images/s and kNN.

    All of train.py's flags are taken too: python train.py --help lists them.
    """

    turn: int = 40
    """Steps of a turn; the first 8 are not timed."""

    def __post_init__(self) -> None:
        if self.turn <= WARM:
            raise ValueError(
                f"--turn {self.turn} must be above {WARM}, the steps that are not timed"
            )


@dataclass
class Contender:
    """One side of the comparison: its batches, its step, and the throughputs of its turns."""

    module: nn.Module
    encode: Callable[[Tensor], Tensor]
    batches: Iterator[Any]
    learn: Callable[[Any], Any]
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Seconds of CPU time an image, workers included, which other processes hardly affect."""
    seconds: float = 0.0
    """Seconds of all its turns, warm-up included."""

    def turn(self, steps: int, batch_size: int, device: torch.device) -> None:
        """Train for some steps; record images/s if enough of them count."""
        self.module.train()
        begin = counted = time.perf_counter()
        spent = 0.0
        for number in range(steps):
            if number == WARM:
                harness.wait(device)
                counted, spent = time.perf_counter(), cpu_seconds()
            self.learn(next(self.batches))
        harness.wait(device)
        end = time.perf_counter()
        self.seconds += end - begin
        if steps > WARM:
            images = (steps - WARM) * batch_size
            self.rates.append(images / (end - counted))
            self.cpu.append((cpu_seconds() - spent) / images)


def the_peer(
    config: ResolvedConfig, workers: Workers, steps: int, accelerator: Accelerator
) -> Contender:
    """Return lightly's side of the comparison, for resolved settings."""
    torch.manual_seed(config.seed)  # as build.create_method: the same initial weights
    backbone = create_backbone(
        config.backbone,
        config.image_size,
        config.stem,
        zero_init_last=config.zero_init_last,
        stem_init=config.stem_init,
    )
    peer = Peer(config, backbone)
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    peer.to(accelerator.device).to(memory_format=layout)
    given = (config.optimizer, config.lr, config.weight_decay, config.momentum)
    optimizer = create_optimizer(peer, *given, config.decay == "all")
    numbers = iter(range(steps))

    def learn(views: Sequence[Tensor]) -> None:
        step = next(numbers)
        for group in optimizer.param_groups:
            group["lr"] = rate(config, step, workers.order.steps_per_epoch)
        images = [x.to(accelerator.device, memory_format=layout) for x in views]
        with accelerator.autocast():
            loss = peer(images)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return Contender(peer, peer.backbone, iter(workers.run(steps)), learn)


def knn(
    one: Contender,
    config: ResolvedConfig,
    data: Data,
    decoders: build.Decoders,
    accelerator: Accelerator,
) -> float:
    """Return the kNN top-1 of a side's backbone, by train.py's protocol."""
    features, labels = [], []
    for table in (data.train, data.val):
        assert table is not None, "settings() refuses data without labels"
        rows = np.flatnonzero(table.label >= 0)
        batches = build.evaluation_batches_of(
            config, table, data.facts, decoders, accelerator, BATCH, rows
        )
        features.append(extract(one.module, one.encode, batches, len(rows), accelerator))
        labels.append(torch.from_numpy(table.label[rows]).to(accelerator.device))
    k = min(NEIGHBORS, len(labels[0]))
    return knn_accuracy(features[0], labels[0], features[1], labels[1], k=k)["knn_top1"]


def race(options: Options, config: Config, accelerator: Accelerator) -> dict[str, Any]:
    """Train both in turns; return the content of ``--json``."""
    device = accelerator.device
    with ExitStack() as stack:
        data = open_data_of(config, accelerator)
        if data.val is None or min(data.train.label.max(), data.val.label.max()) < 0:
            raise ValueError(f"--data {config.data}: kNN needs labels in both its parts")
        decoders = build.Decoders(config, accelerator, log.info)
        stack.callback(decoders.close)
        results = harness.record(device, "lightly")
        learner = create_learner(config, data, decoders, accelerator)
        config, order = learner.config, learner.sampler
        steps = min(learner.total, config.limit_steps or learner.total)
        views, processes = views_of(config), config.workers or cores_per_process()
        transforms = transform(views[0], data.facts)
        pin = device.type == "cuda"
        workers = Workers(data.train, order, processes, transforms, pin=pin)
        stack.callback(workers.close)
        peer = the_peer(config, workers, steps, accelerator)
        ours = Contender(
            learner.method, learner.method.features, learner.loader.batches(0, steps),
            learner.train_on,
        )  # fmt: skip
        sides = {"lightly": peer, "unmix": ours}
        before = knn(ours, config, data, decoders, accelerator)
        for done in range(0, steps, options.turn):
            for side in sides.values():
                side.turn(min(options.turn, steps - done), config.batch_size, device)
            learner.metrics.read()
            rates = ", ".join(f"{n} {s.rates[-1]:,.0f}" for n, s in sides.items() if s.rates)
            log.info("step %d of %d, images/s: %s", min(done + options.turn, steps), steps, rates)
        after = {name: knn(s, config, data, decoders, accelerator) for name, s in sides.items()}
    return results | {
        "setting": {
            "method": config.method, "data": config.data, "backbone": config.backbone,
            "batch_size": config.batch_size, "steps": steps,
            "steps_per_epoch": order.steps_per_epoch,
            "seed": config.seed, "workers": processes, "turn": options.turn, "warm": WARM,
        },
        "knn_untrained": before,
        "sides": {
            name: {
                "images_per_second": statistics.median(side.rates) if side.rates else math.nan,
                "rates": side.rates,
                "cpu_seconds_an_image": side.cpu, "seconds": side.seconds, "knn_top1": after[name],
            }
            for name, side in sides.items()
        },
    }  # fmt: skip


COLUMNS = ("", "images/s", "min-max of turns", "CPU ms an image", "seconds", "kNN untrained",
           "kNN trained")  # fmt: skip


def show(found: dict[str, Any]) -> None:
    """Print both sides."""
    one, sides = found["setting"], found["sides"]
    print(
        f"{one['method']}, {one['data']}, {one['backbone']}, batch {one['batch_size']}, "
        f"{one['steps']:,} steps ({one['steps'] / one['steps_per_epoch']:.2f} epochs), seed "
        f"{one['seed']}, {one['workers']} workers each; lightly "
        f"{found['machine']['versions']['lightly']}",
        f"{harness.machine_line(found)}; "
        f"{harness.timed_by_clock('cuda' if found['machine']['gpu'] else 'cpu')}",
        sep="\n",
    )
    rows = []
    for name, side in sides.items():
        rates = side["rates"] or [math.nan]
        processor = statistics.median(side["cpu_seconds_an_image"] or [math.nan])
        rows.append((
            name,
            *harness.rate_cells(side["images_per_second"], (min(rates), max(rates))),
            f"{1000 * processor:.2f}",
            f"{side['seconds']:,.0f}",
            f"{found['knn_untrained']:.1%}",
            f"{side['knn_top1']:.1%}",
        ))  # fmt: skip
    print(harness.table(COLUMNS, rows))
    pairs = zip(sides["unmix"]["rates"], sides["lightly"]["rates"], strict=True)
    ratios = [ours / theirs for ours, theirs in pairs]
    if ratios:
        print(
            f"unmix is {statistics.median(ratios):.2f} x as fast (median of {len(ratios)} pairs of "
            f"turns, {min(ratios):.2f}-{max(ratios):.2f}); one seed: the difference of kNN is no "
            "result"
        )


def settings(words: Sequence[str]) -> Config:
    """Return the run's settings, without a mixture and with plain batch norm.

    Raises:
        ValueError: the peer does not support them.
    """
    config = parse([*words, "--mix", "none", "--bn", "sync"])
    if config.method not in ("simclr", "moco"):
        raise ValueError(f"--method {config.method}: the peer is simclr or moco")
    if config.precision == "fp16":
        raise ValueError("--precision fp16: the peer's loop does not scale its loss; take bf16")
    return config


def run(options: Options, flags: list[str]) -> dict[str, Any]:
    """Train both and print the table; return the results."""
    config = settings(flags)
    if MISSING:
        raise ValueError(f"lightly is not installed ({MISSING}): pip install lightly")
    accelerator = start(config.precision)
    if accelerator.num_processes > 1:
        raise ValueError("bench.py peer compares one process: start it with plain python")
    results = race(options, config, accelerator)
    show(results)
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Train both; return the exit status."""
    return harness.run_benchmark("peer", Options, run, argv, train_flags=True)
