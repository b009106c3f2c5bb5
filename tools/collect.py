"""Collect the scores of a finished run in one small file, to be committed.

Example, of one run:
    python tools/collect.py runs/cifar10-10k/simclr-none-150-seed0 docs/results/cifar10-10k

The file holds the kNN scores and losses of the scored epochs, the lines of eval.jsonl, the settings
with their digest, and the commit and command of each start of the training.
"""

from __future__ import annotations

if __package__ is None:  # run as a script
    from diagnostics import environment

    environment.check()

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from pipelines.system.atomic import replacing
from tools.runs.command import command
from tools.runs.locate import find_run
from tools.runs.record import read_record
from tools.runs.scores import settings_of

COPIED = ("step", "epoch", "knn_top1", "knn_top5", "loss")


@dataclass(frozen=True)
class Arguments:
    """Collect the scores of a finished run in one small file, to be committed."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run: its folder, as runs/NAME, or NAME below ./runs. An optional file NAME.commands next to
    it holds a commit, a tab and a command on each line."""
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder for NAME.json."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the file; return the exit status."""
    return command(
        "tools/collect.py", lambda: collect(tyro.cli(Arguments, args=argv, description=__doc__))
    )


def collect(args: Arguments) -> None:
    """Write the file and print its path.

    Raises:
        ValueError: the folder holds no run.
    """
    print(write(find_run(args.run), args.output))


def write(run: Path, output: Path) -> Path:
    """Write ``output``/NAME.json; return its path.

    Raises:
        ValueError: the folder holds no run.
    """
    path = output / f"{run.resolve().name}.json"
    text = json.dumps(collected(run), indent=1)
    output.mkdir(parents=True, exist_ok=True)
    with replacing(path) as aside:
        aside.write_text(text + "\n", encoding="utf-8")
    return path


def collected(run: Path) -> dict[str, Any]:
    """Return the content of a run's file.

    Raises:
        ValueError: the folder holds no run.
    """
    record = read_record(run)
    settings = settings_of(record.config)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    metrics = [line for line in record.metrics if "knn_top1" in line]
    return {
        "seed": record.config.seed,
        "settings": settings,
        "settings_sha256": digest,
        "starts": starts(run),
        "metrics": [{name: line.get(name) for name in COPIED} for line in metrics],
        "scores": record.scores,
    }


def starts(run: Path) -> list[dict[str, str]]:
    """Return commit and command of each start of a run's training, in order."""
    path = run.resolve().with_name(f"{run.resolve().name}.commands")
    if not path.is_file():
        return []
    pairs = (line.split("\t", 1) for line in path.read_text(encoding="utf-8").splitlines())
    return [{"commit": commit, "command": command} for commit, command in pairs]


if __name__ == "__main__":
    sys.exit(main())
