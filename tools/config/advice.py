"""Published numbers that do not fit a small data set or a short run, and numbers that do.

Every rule compares resolved settings with the number of training images and of steps. Nothing is
refused: the run trains with what was asked for.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from models.settings.bank import BankConfig
from models.settings.dino import DinoConfig
from models.settings.moco import MocoConfig
from models.settings.swav import SwavConfig
from pipelines.system.units import counted
from tools.config.config import ResolvedConfig, flag, numbers_of
from tools.config.resolve import fits

FEW_STEPS = 4
"""Steps an epoch below which a smaller batch is advised, unless it divides the images."""
SHARE = 10
"""A frozen start may take less than one part in ten of a run."""


@dataclass(frozen=True)
class Advice:
    """A number that does not fit: the setting, why, and a value that fits (None: none is known)."""

    setting: str
    """Field of ``Config``, or OWNER.FIELD."""
    value: float
    reason: str
    fitting: float | None

    def __str__(self) -> str:
        """Return one line: the flag as it is, the reason, the flag as it would fit."""
        name = flag(self.setting)
        line = f"{name} {self.value:g}: {self.reason}"
        return line if self.fitting is None else f"{line}; {name} {self.fitting:g} would fit"


def advise(
    config: ResolvedConfig,
    num_rows: int,
    class_sizes: Sequence[int] = (),
    processes: int = 1,
) -> list[str]:
    """Return a line for each number that does not fit the data or the length of the run.

    Args:
        config: the settings.
        num_rows: number of training images.
        class_sizes: training images of each class, if the run scores itself by kNN.
        processes: number of processes.
    """
    lines = [str(found) for found in misfits(config, num_rows, processes)]
    return [*lines, *_neighbours(config, class_sizes)] if config.knn_every else lines


def _neighbours(config: ResolvedConfig, class_sizes: Sequence[int]) -> Iterator[str]:
    """Yield what distorts the kNN score, as ``tools.scoring.knn.remarks`` does of a run."""
    voting = min(config.knn_k, sum(class_sizes))
    if class_sizes and voting < config.knn_k:
        yield f"--knn-k {config.knn_k} becomes {voting}, the number of images that can vote"
    smallest = min(class_sizes, default=0)
    if smallest < max(class_sizes, default=0) and smallest < voting:
        fitting = max(smallest // 2, 1)
        yield (
            f"kNN during training lets {voting} neighbours vote, but the smallest class has "
            f"{counted(smallest, 'image')}, outvoted by larger classes: compare such scores with "
            f"each other only; --knn-k {fitting} would fit, as would eval.py knn RUN --k {fitting}"
        )


def misfits(config: ResolvedConfig, num_rows: int, processes: int = 1) -> Iterator[Advice]:
    """Yield the settings that do not fit; fitting values fit each other too."""
    fitting = fitting_batch(config, num_rows, processes)
    batch, steps = config.batch_size, num_rows // config.batch_size
    if not steps:  # the sampler refuses a batch larger than the data
        return
    if is_wasteful(num_rows, batch):
        reason = (
            f"an epoch of {num_rows:,} images has {steps} of the {steps * config.epochs:,} steps, "
            f"and leaves out {counted(num_rows - steps * batch, 'image')}"
        )
        yield Advice("batch_size", batch, reason, fitting)
    total = num_rows // (fitting or batch) * config.epochs
    yield from _starts(config, total)
    yield from _of_the_method(config, num_rows, fitting or batch, total)
    yield from _average(config, total)


def is_wasteful(num_rows: int, batch: int) -> bool:
    """Whether few batches are whole, so that the images of the last one, left out, count."""
    return num_rows // batch < FEW_STEPS and num_rows % batch > 0


def fitting_batch(config: ResolvedConfig, num_rows: int, processes: int = 1) -> int | None:
    """Return the batch size, halved until it is not wasteful; None if no such size fits."""
    batch = config.batch_size
    while is_wasteful(num_rows, batch):
        if batch % 2:
            return None
        batch //= 2
        queues = {"queue": batch * 2} if isinstance(config.chosen, MocoConfig) else {}
        numbers = dataclasses.replace(config.chosen, **queues)
        changed = {"batch_size": batch, numbers_of(config.method): numbers}
        if not fits(processes, dataclasses.replace(config, **changed)):
            return None
    return batch


def _starts(config: ResolvedConfig, total: int) -> Iterator[Advice]:
    """What takes place at the start of a run, and would take most or all of it."""
    epochs, numbers = config.epochs, config.chosen
    tenth = epochs / SHARE
    if 2 * config.warmup_epochs >= epochs:
        what = "all" if config.warmup_epochs >= epochs else "half or more"
        reason = f"the learning rate's warm-up takes {what} of the run (--epochs {epochs})"
        yield Advice("warmup_epochs", config.warmup_epochs, reason, tenth)
    if isinstance(numbers, SwavConfig) and SHARE * numbers.freeze_steps >= max(total, 1):
        reason = f"the prototypes are frozen in that many of the run's {total:,} steps"
        yield Advice("swav.freeze_steps", numbers.freeze_steps, reason, total // 100)
    if isinstance(numbers, SwavConfig) and numbers.queue and numbers.queue_start_epoch >= epochs:
        reason = f"the run has {epochs:,} epochs, so the queue is never used"
        yield Advice("swav.queue_start_epoch", numbers.queue_start_epoch, reason, int(tenth))
    if isinstance(numbers, DinoConfig):
        if SHARE * numbers.freeze_epochs >= epochs and numbers.freeze_epochs:
            reason = f"the prototypes are frozen in that many of the {epochs:,} epochs"
            yield Advice("dino.freeze_epochs", numbers.freeze_epochs, reason, epochs // 100)
        if numbers.temperature_epochs >= epochs:
            reason = f"the teacher's temperature is still warming up after {epochs:,} epochs"
            fitting = int(3 * tenth)
            yield Advice("dino.temperature_epochs", numbers.temperature_epochs, reason, fitting)
    if config.mix == "clim" and config.clim.start_epoch >= epochs:
        reason = f"the run has {epochs:,} epochs, so no image is mixed with a neighbour"
        yield Advice("clim.start_epoch", config.clim.start_epoch, reason, int(tenth))


def _of_the_method(
    config: ResolvedConfig, num_rows: int, batch: int, total: int
) -> Iterator[Advice]:
    """Queues, clusters and negatives that were published for a large data set."""
    numbers = config.chosen
    quarter = power_of_two(num_rows / 4)
    if isinstance(numbers, MocoConfig) and 2 * numbers.queue > num_rows:
        reason = (
            f"of {num_rows:,} images the queue holds each {numbers.queue / num_rows:.3g} times on "
            "average, so earlier keys of a query's own image are among its negatives"
        )
        keys = numbers.keys_per_step(batch)
        fitting = max(quarter, keys) if 2 * max(quarter, keys) <= num_rows else None
        yield Advice("moco.queue", numbers.queue, reason, fitting)
    if isinstance(numbers, SwavConfig) and numbers.queue >= num_rows:
        reason = f"the queue holds each of the {num_rows:,} images more than once"
        yield Advice("swav.queue", numbers.queue, reason, quarter if quarter >= batch else 0)
    if isinstance(numbers, SwavConfig | DinoConfig) and 4 * numbers.prototypes > num_rows:
        each = num_rows / numbers.prototypes
        reason = f"{num_rows:,} images are {each:.2g} for each prototype, and most stay empty"
        fitting = (
            max(_round(num_rows / 20), 4) if isinstance(numbers, SwavConfig) else max(quarter, 4)
        )
        owner = numbers_of(config.method)
        yield Advice(f"{owner}.prototypes", numbers.prototypes, reason, fitting)
    if isinstance(numbers, BankConfig) and numbers.negatives >= num_rows:
        reason = f"negatives are drawn from {num_rows:,} images, so most are drawn several times"
        owner = numbers_of(config.method)
        yield Advice(f"{owner}.negatives", numbers.negatives, reason, max(2 * quarter, 2))


def _average(config: ResolvedConfig, total: int) -> Iterator[Advice]:
    """Weights of keys and teachers that hardly leave their first values in a short run."""
    if isinstance(config.chosen, BankConfig):  # its momentum is that of a row at each visit
        return
    momentum: Any = getattr(config.chosen, "momentum", None)
    if momentum is None or momentum in (0, 1) or total < 1:
        return
    constant = isinstance(config.chosen, MocoConfig)  # the others rise to 1 along a cosine
    first = math.exp(-(1 - momentum) * total * (1.0 if constant else 0.5))
    if first > 1 / SHARE:
        reason = (
            f"after the run's {total:,} steps the moving average still holds {first:.0%} of its "
            "first weights"
        )
        fitting = max(round(1 - 10 / total, 4), 0.9) if total > 100 else 0.9
        if total * (1 - fitting) * (1.0 if constant else 0.5) < math.log(SHARE):
            fitting = 0.5
        yield Advice(f"{numbers_of(config.method)}.momentum", momentum, reason, fitting)


def power_of_two(number: float) -> int:
    """Return the largest power of two up to the number, at least 1."""
    return 2 ** max(math.floor(math.log2(max(number, 1))), 0)


def _round(number: float) -> int:
    """Round down to one significant digit."""
    digit = 10 ** max(math.floor(math.log10(max(number, 1))), 0)
    return int(number // digit * digit)
