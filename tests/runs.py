"""Run ``train.py`` in this process, small."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from accelerate.state import AcceleratorState, PartialState

import train

TINY = (
    *("--backbone", "resnet10t", "--image-size", "16", "--batch-size", "16", "--groups", "4"),
    *("--epochs", "4", "--optimizer", "momentum", "--lr", "0.05", "--warmup-epochs", "0"),
    *("--log-every", "1", "--knn-every", "0", "--log-with", "tensorboard", "--workers", "2"),
)
SMALL = {
    "moco": ("--moco.queue", "64", "--moco.dim", "16"),
    "simclr": ("--simclr.dim", "16", "--simclr.hidden", "32"),
    "byol": ("--byol.dim", "16", "--byol.hidden", "32"),
    "swav": (
        *("--swav.dim", "16", "--swav.hidden", "32", "--swav.prototypes", "12"),
        *("--swav.freeze-steps", "2", "--swav.queue", "32", "--swav.queue-start-epoch", "1"),
    ),
}


def lines(run: Path) -> list[dict]:
    """The run's metrics."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def reset_accelerate() -> None:
    """Let the next Accelerator start as in a fresh process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()


def run_main(main: Callable[[Sequence[str]], int], *flags: str) -> int:
    """Call a command's ``main`` as a fresh process would find it; return the exit status."""
    reset_accelerate()
    try:
        return main(flags)
    except SystemExit as stop:  # the command line's parser
        return int(stop.code or 0)


def run_train(*flags: str) -> int:
    """Call ``train.main`` so."""
    return run_main(train.main, *flags)
