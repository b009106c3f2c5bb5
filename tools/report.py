"""Write a run's page: one file, readable on a phone, that says what was trained and how well.

python tools/report.py --run runs/NAME
"""

from __future__ import annotations

if __package__ is None:  # run as a script
    from diagnostics import environment

    environment.check()

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from models.methods.base import Which
from pipelines.sources.image_file import BadImage
from tools.analysis.loaded_run import open_runs
from tools.reporting.embedding_panel import How
from tools.reporting.write import write


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write report.html into a run's folder, or write it anew after an evaluation."""

    run: Path
    """Folder of the run, as runs/NAME."""
    encoder: Which | None = None
    """Whose features are looked at: the encoder that learns, or its momentum (EMA) copy (default:
    the one that the paper scores)."""
    map: How = "tsne"
    """How the images are laid out in the plane; pca takes no time."""
    look: bool = True
    """Load the network and the images, for neighbours and the map."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page and print where it is; return the exit status."""
    logging.basicConfig(format="%(message)s")
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        args = tyro.cli(Arguments, args=argv, description=__doc__)
        if not (args.run / "config.yaml").is_file():
            raise ValueError(f"--run {args.run} is not the folder of a run: it has no config.yaml")
        if args.encoder and not args.look:
            raise ValueError("--encoder chooses whose features are looked at: --no-look has none")
        run = open_runs([args.run], args.encoder)[0] if args.look else None
        print(write(args.run, run, args.map))
    except (ValueError, OSError, BadImage) as error:
        hint = "" if "--no-look" in argv else "\n--no-look writes what needs no network"
        print(f"tools/report.py: {error}{hint}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
