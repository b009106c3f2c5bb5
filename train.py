"""Train an image representation without labels.

accelerate launch train.py --method swav --mix region
"""

from __future__ import annotations

if __name__ == "__main__":
    from tools.diagnostics import environment

    environment.check()

import logging
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from tools.config.cli import parse
from tools.config.config import Config
from tools.config.preflight import preflight
from tools.runs.command import command

if TYPE_CHECKING:
    from accelerate import Accelerator

    from models.methods import Method
    from pipelines.loader import Loader
    from tools.config.config import ResolvedConfig
    from tools.engine.data import Data
    from tools.engine.train_state import TrainState


def main(argv: Sequence[str] | None = None) -> int:
    """Train with the settings of the flags; return the exit status."""
    logging.basicConfig(format="%(message)s")
    return command("train.py", lambda: parse_and_run(argv))


def parse_and_run(argv: Sequence[str] | None) -> int:
    """Train with the settings of the flags; return 2 if contact with other processes is lost.

    torch is imported after the flags have been checked, so that a wrong flag is reported at once.
    """
    config = parse(argv)
    preflight(config)
    from tools.distributed.launch import choose_paths, is_lost_contact, start

    accelerator = start(config.precision, timedelta(minutes=config.timeout_minutes))
    choose_paths(config.device_paths, accelerator.device)
    if accelerator.is_main_process:
        logging.getLogger("pipelines").setLevel(logging.INFO)
    try:
        return plan(config, accelerator) if config.dry_run else train(config, accelerator)
    except RuntimeError as error:
        if not is_lost_contact(error):
            raise
        lost = str(error).splitlines()[0]
        print(f"train.py: lost contact: {lost}\nGo on with --resume auto", file=sys.stderr)
        return 2


def plan(config: Config, accelerator: Accelerator) -> int:
    """Print the settings, steps and memory of the run; download and write nothing."""
    from tools.config.view_plan import view_plan
    from tools.engine import banner, build, dry_run, memory
    from tools.engine.online_knn import why_off
    from tools.engine.start import load_init
    from tools.runs.trackers import check_trackers

    check_trackers(config.log_with)
    data, missing = dry_run.open_without_download(config, accelerator)
    resolved, sampler, method = build.assemble(config, data, accelerator)
    if not missing:
        why_off(resolved, data)  # refuses --keep-best without scores
    views = view_plan(resolved, method, sampler.steps_per_epoch)
    rows = resolved.batch_size // accelerator.num_processes
    steps, room = sampler.steps_per_epoch, memory.of_gpu(accelerator.device)
    accelerator.print(dry_run.describe(resolved, method, views, steps, rows, room))
    accelerator.print(dry_run.describe_decoding(resolved, data, accelerator.device, rows))
    started = load_init(resolved, method, data.facts)
    processes = accelerator.num_processes
    notes = banner.notes(config, resolved, data, method, sampler, processes, planned=True)
    for line in [*started, *notes, *missing]:
        accelerator.print(line)
    return 0


def train(given: Config, accelerator: Accelerator) -> int:
    """Build the parts of a run and train from the first or the resumed step to the last."""
    from pipelines.sources.contents import sample_key
    from tools.distributed.coordination import local_main_first
    from tools.engine import banner, build
    from tools.engine.clim_refresh import ClimRefresh
    from tools.engine.data import loader_of, open_data_of
    from tools.engine.device_paths import prove
    from tools.engine.logger import RunLogger
    from tools.engine.online_knn import OnlineKnn, why_off
    from tools.engine.start import load_init
    from tools.engine.train_state import TrainState
    from tools.engine.trainer import Run, prepare
    from tools.runs import run_dir
    from tools.runs.trackers import check_trackers

    check_trackers(given.log_with)
    run_dir.refuse_unwritable(given, accelerator)
    data = open_data_of(given, accelerator)
    config, sampler, method = build.assemble(given, data, accelerator)
    why_off(config, data)  # refuses --keep-best before the run has a folder
    model, optimizer = prepare(config, method, accelerator)

    folder, checkpoint = run_dir.choose(config, accelerator)
    started: list[str] = []
    if not checkpoint:
        started = local_main_first(accelerator, lambda: load_init(config, method, data.facts))
    with run_dir.claimed(folder, accelerator):
        state = TrainState(method, optimizer, config, data.train, folder, accelerator)
        state.identify(sample_key(data.unconverted or data.train))
        if sampler.balance is not None:
            state.weigh(sampler.balance.key)
        state.loader = loader_of(config, data, accelerator.device)
        step = state.restore(checkpoint) if checkpoint else 0
        total = config.epochs * sampler.steps_per_epoch
        last = min(total, config.limit_steps or total)
        steps = sampler.steps_per_epoch
        logger = RunLogger(
            folder, accelerator, total_steps=last, steps_per_epoch=steps, start_step=step
        )
        about = banner.banner(config, data, method, steps, folder, accelerator)
        notes = banner.notes(given, config, data, method, sampler, accelerator.num_processes)
        resumed = banner.resumed(config, state, steps, step)
        for line in [*about, *started, *notes, *resumed]:
            logger.message(line)
        if state.is_over(step, steps):  # the run's files stay those of its own --epochs
            logger.close()
            accelerator.end_training()
            return 0

        decoders = build.Decoders(config, accelerator, logger.message)
        try:
            loader = build.training_loader(config, data, decoders, method, accelerator)
            for line in prove(method, loader.maker.decoder, accelerator.device):
                logger.message(line)
            knn = OnlineKnn(config, data, decoders, method, accelerator)
            clim_refresh = ClimRefresh(
                config, data, decoders, state, logger, method, accelerator, steps
            )
            if step < last:
                clim_refresh.update(loader, step)
            if accelerator.is_main_process and step < last:
                draw_first_views(loader, step, folder)
            run_dir.begin(folder, config, accelerator)
            learning = (config, accelerator, sampler, model, method, optimizer, loader)
            run = Run(*learning, knn, clim_refresh, state, logger)
            status = run.steps(step, last)
        finally:
            decoders.close()
            logger.close()
        if accelerator.is_main_process:
            leave(config, data, method, accelerator, state, status)
    accelerator.end_training()
    return status


def draw_first_views(loader: Loader, step: int, folder: Path) -> None:
    """Draw the batch of a step as views.png."""
    from tools.plots.views import draw_views

    maker, batch = loader.maker, next(loader.batches(step, step + 1))
    draw_views(batch, maker.mean, maker.std, folder / "views.png", views=maker.views.at(step))


def leave(
    config: ResolvedConfig,
    data: Data,
    method: Method,
    accelerator: Accelerator,
    state: TrainState,
    status: int,
) -> None:
    """Draw the curves of a run, and write its report or the note that it can be resumed."""
    from tools.engine.trainer import STOPPED
    from tools.plots import curves
    from tools.reporting.write import at_end
    from tools.runs import run_dir

    folder = state.folder
    if status == STOPPED:
        (folder / run_dir.RESUME).write_text("stopped by a signal: --resume auto\n")
    curves.draw_curves(folder / "metrics.jsonl", folder / "curves.png")
    if config.report and status == 0:
        at_end(config, folder, data, method, accelerator, state.left_out)


if __name__ == "__main__":
    sys.exit(main())
