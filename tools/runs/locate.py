"""How commands name runs: by the path of a folder, or by a name below ./runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

RUNS = Path("runs")


def find_run(run: Path) -> Path:
    """Return the folder of a run given as a path, or as a name below ./runs.

    Raises:
        ValueError: there is no such folder.
    """
    for folder in (run, RUNS / run):
        if folder.is_dir():
            return folder
    raise ValueError(f"{run}: there is no such run, nor {RUNS / run}")


def find_runs(runs: Iterable[Path]) -> list[Path]:
    """Return the folders of one or more runs.

    Raises:
        ValueError: no run is given, or one does not exist.
    """
    folders = [find_run(run) for run in runs]
    if not folders:
        raise ValueError("name a run: its folder, as runs/NAME, or NAME below ./runs")
    return folders
