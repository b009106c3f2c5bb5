"""Small runs of ``train.py`` in this process."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, PartialState

import train

SHARE = ("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_WORLD_SIZE", "2"))
"""make test is two processes, each with half of the cores: threads in want of one cost minutes."""
TINY = (
    *("--backbone", "test_resnet", "--image-size", "16", "--batch-size", "16", "--groups", "4"),
    *("--epochs", "4", "--optimizer", "momentum", "--lr", "0.05", "--warmup-epochs", "0"),
    *("--log-every", "1", "--knn-every", "0", "--log-with", "tensorboard", "--workers", "2"),
    "--no-report",
)
SMALL = {
    "moco": ("--moco.queue", "64", "--moco.dim", "16"),
    "simclr": ("--simclr.dim", "16", "--simclr.hidden", "32"),
    "byol": ("--byol.dim", "16", "--byol.hidden", "32"),
    "swav": (
        *("--swav.dim", "16", "--swav.hidden", "32", "--swav.prototypes", "12"),
        *("--swav.freeze-steps", "2", "--swav.queue", "32", "--swav.queue-start-epoch", "1"),
    ),
    "simsiam": ("--simsiam.dim", "32", "--simsiam.hidden", "16"),
    "barlow": ("--barlow.dim", "16", "--barlow.hidden", "32"),
    "vicreg": (
        *("--vicreg.dim", "16", "--vicreg.hidden", "32", "--vicreg.invariance", "1"),
        *("--vicreg.variance", "1", "--vicreg.covariance", "0.04"),
    ),
    "moco-v3": ("--moco-v3.dim", "16", "--moco-v3.hidden", "32"),
    "wmse": ("--wmse.dim", "4", "--wmse.hidden", "32", "--wmse.sub-batch", "8"),
    "cmc": ("--cmc.dim", "16", "--cmc.negatives", "32"),
    "insdis": ("--insdis.dim", "16", "--insdis.negatives", "32", "--insdis.softmax"),
    "dino": ("--dino.dim", "16", "--dino.hidden", "32", "--dino.prototypes", "12"),
}
MIXES = {name: ("none", "unmix") for name in SMALL} | {"cmc": ("none",), "insdis": ("none",)}
"""What of Un-Mix each method is tried with: these two have no loss for its mixtures."""
CASES = [(method, mix) for method in SMALL for mix in MIXES[method]]


def lines(run: Path) -> list[dict]:
    """The run's metrics."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def reset_accelerate() -> None:
    """Let the next Accelerator start as in a fresh process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()


def skip_pictures(patch: pytest.MonkeyPatch) -> None:
    """Draw none, and write no report: they take most of a tiny run's time."""
    patch.setattr("tools.plots.views.draw_views", lambda *_, **__: None)
    patch.setattr("tools.plots.curves.draw_curves", lambda *_, **__: None)
    patch.setattr("tools.reporting.write.at_end", lambda *_, **__: None)


def run_main(main: Callable[[Sequence[str]], int], *flags: str) -> int:
    """Call a command's ``main`` as a fresh process would find it; return the exit status."""
    reset_accelerate()
    with pytest.MonkeyPatch.context() as patch:
        if "WORLD_SIZE" not in os.environ:  # a group of processes knows better
            patch.setenv(*SHARE)
        try:
            return main(flags)
        except SystemExit as stop:  # the command line's parser
            return int(stop.code or 0)


def run_train(*flags: str, pictures: bool = False) -> int:
    """Call ``train.main`` so, by default without its pictures."""
    with pytest.MonkeyPatch.context() as patch:
        if not pictures:
            skip_pictures(patch)
        return run_main(train.main, *flags)


def two_steps(method: str, data: Path, output: Path, *more: str) -> Path:
    """A run of two steps on a folder of images."""
    flags = ("--method", method, *TINY, *SMALL[method], "--data", f"folder:{data}", *more)
    assert run_train(*flags, "--output", str(output), "--name", "run", "--limit-steps", "2") == 0
    return output / "run"
