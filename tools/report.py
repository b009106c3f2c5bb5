"""Write the reports of runs: one self-contained page each, readable on a phone.

Example:
    python tools/report.py runs/NAME
"""

from __future__ import annotations

if __package__ is None:  # run as a script
    from diagnostics import environment

    environment.check()

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from models.settings.base import Which
from tools.analysis.loaded_run import open_runs
from tools.reporting.embedding_panel import MapMethod
from tools.reporting.write import write
from tools.runs.command import command
from tools.runs.locate import RunArguments


@dataclass(frozen=True, kw_only=True)
class Arguments(RunArguments):
    """Write report.html to the folders of runs, for example after an evaluation."""

    encoder: Which | None = None
    """Encoder of the features: the trained or the momentum (EMA) one (default: the paper's)."""
    map: MapMethod = "tsne"
    """Method of the embedding map; pca is the fastest."""
    look: bool = True
    """Load the network and the images, for the neighbours and the map."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pages and print their paths; return the exit status."""
    logging.basicConfig(format="%(message)s")
    return command("tools/report.py", lambda: report(argv))


def report(argv: Sequence[str] | None) -> None:
    """Write the pages of the runs.

    Raises:
        ValueError: a run does not exist or cannot be loaded.
    """
    arguments = tyro.cli(Arguments, args=argv, description=__doc__)
    if arguments.encoder and not arguments.look:
        raise ValueError("--encoder chooses the features' encoder: --no-look computes no features")
    for folder in arguments.folders:
        if not (folder / "config.yaml").is_file():
            raise ValueError(f"{folder} is not the folder of a run: it has no config.yaml")
        try:
            run = open_runs([folder], arguments.encoder)[0] if arguments.look else None
        except (ValueError, OSError) as error:
            hint = "--no-look writes the report without the network and the images"
            raise ValueError(f"{error}; {hint}") from error
        print(write(folder, run, arguments.map))


if __name__ == "__main__":
    sys.exit(main())
