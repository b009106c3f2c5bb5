"""Accelerate's trackers of a run: TensorBoard, Weights & Biases, Trackio.

A tracker's run has the name of the run's folder. The id of the run in Weights & Biases is in the
folder too, so that a resumed run continues it.
"""

from __future__ import annotations

import importlib.util
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, TensorBoardTracker, TrackioTracker, WandBTracker

from tools.config.config import Config
from tools.distributed.coordination import main_process_first

WANDB_ID = "wandb-id"
"""File in a run's folder with the id of the run in Weights & Biases."""


def check_trackers(names: Sequence[str]) -> None:
    """Check that the trackers' packages are installed.

    Raises:
        ValueError: a tracker's package is not installed.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"--log-with {name}: not installed; .venv/bin/uv pip install {name}")


def start_trackers(accelerator: Accelerator, folder: Path, config: Config) -> None:
    """Start the trackers of the run in ``folder``; all processes call it.

    ``accelerator.log`` writes to them.

    Raises:
        ValueError: a tracker does not start, for example without a login; the text has the fix.
    """
    project = config.wandb_project or folder.name
    makers: dict[str, Callable[[], GeneralTracker]] = {
        "tensorboard": lambda: TensorBoardTracker("tensorboard", folder),
        "wandb": lambda: _wandb(folder, project, config),
        "trackio": lambda: TrackioTracker(project, name=folder.name, resume="allow"),
    }

    def start() -> None:
        accelerator.trackers = []
        for name in config.log_with:
            tracker = makers[name]()
            try:
                tracker.start()
            except Exception as error:  # the packages' own classes, which need not be installed
                raise ValueError(_reason(name, error)) from error
            accelerator.trackers.append(tracker)

    main_process_first(accelerator, start)


def _wandb(folder: Path, project: str, config: Config) -> WandBTracker:
    """Return the tracker of the run's own id, which is drawn once."""
    file = folder / WANDB_ID
    if not file.exists():
        file.write_text(secrets.token_hex(4))
    return WandBTracker(
        project,
        entity=config.wandb_entity,
        tags=list(config.wandb_tags) or None,
        name=folder.name,
        id=file.read_text().strip(),
        resume="allow",
        dir=str(folder),
    )


def _reason(name: str, error: Exception) -> str:
    """Return why a tracker did not start, and what to do, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    fix = f"leave {name} out of --log-with"
    if name == "wandb":
        fix = f"run 'wandb login' once, set WANDB_MODE=offline, or {fix}"
    return f"--log-with {name}: {text}; {fix}"
