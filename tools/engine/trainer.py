"""The training loop: steps, and logs, scores and checkpoints between them."""

from __future__ import annotations

import dataclasses
import logging
import math
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from models.methods import Method
from models.optim import LrScale, create_optimizer, layer_shares, learning_rate, schedule_decay
from pipelines.batch import Batch
from pipelines.loader import Loader
from pipelines.sampler import Sampler
from pipelines.system.scope import Interrupted, interruptible
from tools.config.config import ResolvedConfig
from tools.distributed.consistency import check_ranks
from tools.distributed.preemption import SILENT_SECONDS, StopSignal
from tools.distributed.watchdog import PATIENCE
from tools.engine.accumulation import backward, total
from tools.engine.clim_refresh import ClimRefresh
from tools.engine.clip import clip
from tools.engine.compiled import compile_encoders
from tools.engine.fetching import fetched
from tools.engine.logger import RunLogger
from tools.engine.metrics import NotFinite, StepMetrics, mean_share
from tools.engine.next_batch import until_none_comes
from tools.engine.online_knn import OnlineKnn
from tools.engine.rollback import Rollback, batches
from tools.engine.throughput import ThroughputMeter
from tools.engine.train_state import TrainState

log = logging.getLogger(__name__)

STOPPED = 75
"""Exit status after a signal (EX_TEMPFAIL): the same command with --resume auto continues."""


def prepare(
    config: ResolvedConfig, method: Method, accelerator: Accelerator
) -> tuple[nn.Module, Optimizer]:
    """Move the method to its device, compile it if configured, wrap it and its optimiser."""
    method.to(accelerator.device)
    if config.channels_last:
        method.to(memory_format=torch.channels_last)
    if config.compile:
        compile_encoders(
            method.encoders(), log.warning if accelerator.is_main_process else log.debug
        )
    return accelerator.prepare(method, make_optimizer(config, method))


def make_optimizer(config: ResolvedConfig, method: Method) -> Optimizer:
    """Build the optimiser of resolved settings."""
    scale = method.lr_scale
    if config.layer_decay < 1:
        shares = layer_shares(method.backbone, config.layer_decay)

        def scale(name: str, parameter: nn.Parameter) -> LrScale:
            own = method.lr_scale(name, parameter)
            return replace(own, share=own.share * shares.get(id(parameter), 1.0))

    numbers = config.optimizer, config.lr, config.weight_decay, config.momentum
    return create_optimizer(method, *numbers, config.decay == "all", scale)


def rate(config: ResolvedConfig, step: int, steps_per_epoch: int, scheduled: bool = True) -> float:
    """Return the learning rate of a step: a pure function of the settings and the step.

    If it is not ``scheduled``, it stays at the peak after the warm-up.
    """
    total = config.epochs * steps_per_epoch
    return learning_rate(
        step,
        total,
        config.lr,
        config.final_lr,
        round(config.warmup_epochs * steps_per_epoch),
        config.schedule if scheduled else "constant",
        [round(share * total) for share in config.milestones],
        config.step_factor,
    )


def schedule_change(
    config: ResolvedConfig, epochs_before: int, step: int, steps_per_epoch: int
) -> str | None:
    """Return what another --epochs at a resume does to the learning rate, as a line; None: same.

    Args:
        config: the settings now.
        epochs_before: the --epochs of the checkpoint.
        step: number of finished steps.
        steps_per_epoch: steps of an epoch.
    """
    if config.epochs == epochs_before:
        finished = step >= config.epochs * steps_per_epoch
        return (
            f"the run is finished: --epochs above {epochs_before:,} trains on" if finished else None
        )
    before = dataclasses.replace(config, epochs=epochs_before)
    total, now = config.epochs * steps_per_epoch, rate(config, step, steps_per_epoch)
    head = f"--epochs: {epochs_before:,} -> {config.epochs:,}: "
    if step >= total:
        return (
            f"{head}nothing is left to train, {step:,} of {total:,} steps are finished; the run "
            f"keeps its --epochs {epochs_before:,}, and nothing is written"
        )
    text = (
        f"the schedule now ends at step {total:,}; the learning rate of the next step is {now:.2e}"
    )
    if step >= epochs_before * steps_per_epoch:
        last = rate(before, max(step - 1, 0), steps_per_epoch)
        return f"{head}the run was finished; {text}, after {last:.2e} in its last step"
    return f"{head}{text} instead of {rate(before, step, steps_per_epoch):.2e}"


@dataclass
class Learner:
    """Makes optimization steps: a method, its optimiser and its batches. It writes no files."""

    config: ResolvedConfig
    accelerator: Accelerator
    sampler: Sampler
    model: nn.Module
    method: Method
    optimizer: Optimizer
    loader: Loader

    def __post_init__(self) -> None:
        self.total = self.config.epochs * self.sampler.steps_per_epoch
        self.weights = [p for p in self.method.parameters() if p.requires_grad]
        self.backbone_starts = round(self.config.init_warmup * self.sampler.steps_per_epoch)
        self.metrics = StepMetrics(self.accelerator, self.weights)
        device, batch_size = self.accelerator.device, self.config.batch_size
        self.throughput = ThroughputMeter(batch_size, lambda: self.loader.waited, device)

    def train_on(self, batch: Batch) -> None:
        """Make one optimization step; the host does not wait for the device."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = group["share"] * self.lr(batch.step, group["scheduled"])
        ends = (config.weight_decay, config.weight_decay_end)
        schedule_decay(self.optimizer.param_groups, batch.step, self.total, *ends)
        terms = backward(self.accelerator, self.model, self.method, batch, config.accumulate)
        self.method.after_backward()
        if batch.step < self.backbone_starts:
            for parameter in self.method.backbone.parameters():
                parameter.grad = None  # which the optimizer skips
        norm = clip(self.accelerator, self.weights, config.clip_grad, config.clip_grad_each)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_step((batch.step + 1) / self.total)
        values = {"loss": total(terms), **terms, "grad_norm": norm, **mean_share(batch)}
        self.metrics.add(batch.step, values)
        self.throughput.step()

    def lr(self, step: int, scheduled: bool = True) -> float:
        """Return the learning rate of a step."""
        return rate(self.config, step, self.sampler.steps_per_epoch, scheduled)


@dataclass
class Run(Learner):
    """The training loop of a run, with logs, scores and checkpoints."""

    knn: OnlineKnn
    clim_refresh: ClimRefresh
    state: TrainState
    logger: RunLogger
    stopped: bool = False
    steps_done: int = 0
    first_step: int = 0

    def steps(self, step: int, last: int) -> int:
        """Train from ``step`` to ``last``; return the exit status."""
        if self.knn.off:
            self.logger.message(f"kNN is off: {self.knn.off}")
        for remark in self.knn.remarks:
            self.logger.message(remark)
        if step == 0 and not self.knn.off:
            untrained = {"loss": math.nan, "lr": self.lr(0), "images_per_second": math.nan}
            self.logger.log(0, untrained | {"data_wait": math.nan} | self.knn.score())
        self.method.train()
        rollback = Rollback(self.config, self.state, self.logger, self.accelerator)
        if rollback.on and self.state.last_good is None:
            self.save(step)
        patience = min(PATIENCE, 30 * self.config.timeout_minutes)  # at most half the timeout
        timeout = 60 * self.config.timeout_minutes
        signals = StopSignal(self.accelerator, step, str(self.state.folder), patience, timeout)
        with signals as stop, interruptible(stop.is_waiting, SILENT_SECONDS):
            self.steps_done = self.first_step = step
            while step < last and not self.stopped:
                try:
                    step = self.train_until(step, last, stop)
                except Interrupted:  # before the first step: the images of the table do not come
                    self.stop_after(stop, step)
                except NotFinite as error:
                    with self.throughput.paused():
                        step = rollback.after(error)
                    self.metrics.forget()
                    if self.stopped:  # a signal came in the same step
                        self.save(step)
        if best := self.state.best:
            score = f"kNN top-1 {best['knn_top1']:.1%}"
            self.logger.message(f"best checkpoint: step {best['step']:,}, {score}")
        return STOPPED if self.stopped else 0

    def train_until(self, step: int, last: int, stop: StopSignal) -> int:
        """Train from ``step`` until the next score or table is due; return the step reached."""
        scoring = min(last, self.knn.due(step, self.sampler.steps_per_epoch))
        until = min(scoring, self.clim_refresh.due(step))
        with self.throughput.paused():
            self.clim_refresh.update(self.loader, step)
        save = self.save if self.accelerator.num_processes == 1 else None
        with closing(batches(self.loader, step, until, self.state.left_out)) as todo:
            for batch in until_none_comes(todo, step, partial(self.stop_after, stop), save):
                if batch is not None:
                    assert batch.step == step, f"expected step {step}, not {batch.step}"
                    self.train_on(batch)
                step += 1
                self.steps_done += 1  # for stop; a rollback does not lower it
                if self.config.check_ranks and step % self.config.check_ranks == 0:
                    self.compare_ranks(step)
                epoch_ends = step % self.sampler.steps_per_epoch == 0
                at_log = step % self.config.log_every == 0 or step == until or epoch_ends
                if at_log:
                    self.log(step, scored=step == scoring and not self.knn.off)
                elif self.steps_done == self.first_step + 1:
                    self.logger.show(step, self.metrics.last())
                self.logger.tick(step)
                if epoch_ends:
                    self.logger.epoch(step)
                if stop.after(self.steps_done):
                    self.stop_after(stop, step)
                    break
                if step == last or self.state.is_due(step, at_log):
                    self.save(step)
        return step

    def stop_after(self, stop: StopSignal, step: int) -> None:
        """Save and stop after ``step`` finished steps."""
        self.stopped = True
        self.save(step)
        self.logger.message(f"stopped by {stop.received} after step {step:,}")

    def log(self, step: int, *, scored: bool) -> None:
        """Write the log line of ``step`` finished steps; the host waits for the device here."""
        values = self.metrics.read()
        self.refuse_if_not_finite()
        trained = bool(values)  # false if all steps since the last line were left out
        values |= {"lr": self.lr(step - 1)} | self.throughput.read() | fetched(self.loader)
        if self.config.on_nan == "rollback":
            values["steps_left_out"] = len(self.state.left_out)
        if self.config.on_bad_image == "replace":
            values["images_replaced"] = self.loader.maker.decoder.replaced
        with self.throughput.paused():
            if trained:
                values |= {name: value.item() for name, value in self.method.monitors().items()}
            values |= self.clim_refresh.news()
            if scored:
                with suppress(Interrupted):  # asked to stop while the images do not come
                    values |= self.knn.score()
                    self.state.scored(step, values["knn_top1"])
            self.logger.log(step, values)

    def save(self, step: int) -> None:
        """Write a checkpoint if all losses since the last one were finite."""
        with self.throughput.paused():
            self.refuse_if_not_finite()
            self.state.save(step)

    def compare_ranks(self, step: int) -> None:
        """Stop if the processes do not hold the same state."""
        with self.throughput.paused():
            check_ranks(self.accelerator, self.method, self.state.neighbors, step)

    def refuse_if_not_finite(self) -> None:
        """Stop if a loss or weight was NaN or infinite.

        Raises:
            NotFinite: it has the first such step; the text names its images.
        """
        step = self.metrics.first_bad()
        if step is None:
            return
        rows = self.sampler.rows(step).tolist()
        raise NotFinite(
            f"the loss of step {step}, or a weight after it, is not finite; its images are rows "
            f"{rows}. No checkpoint was written since; lower --lr, train with --precision no, or "
            "leave such steps out with --on-nan rollback",
            step,
        )
