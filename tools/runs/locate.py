"""Run arguments of commands: the path of a folder, or a name below ./runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from tools.config.run_path import RUNS, nearest_run


@dataclass(frozen=True, kw_only=True)
class RunArguments:
    """The runs of a command, positional or with --run."""

    runs: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="(one or more)"),
    ] = ()
    """Runs: folders, as runs/NAME, or names below ./runs."""
    run: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """A run, as RUN; repeat the flag for more runs."""

    @property
    def folders(self) -> list[Path]:
        """The folders of all runs.

        Raises:
            ValueError: no run is named, or one does not exist.
        """
        return find_runs([*self.runs, *self.run])

    @property
    def records(self) -> list[Path]:
        """The folders of all runs, or their files of ``tools/collect.py``.

        Raises:
            ValueError: no run is named, or one does not exist.
        """
        return find_runs([*self.runs, *self.run], find_record)


def find_record(run: Path) -> Path:
    """Return a file of ``tools/collect.py``, or the folder of a run as ``find_run`` does.

    Raises:
        ValueError: there is neither.
    """
    return run if run.suffix == ".json" and run.is_file() else find_run(run)


def find_run(run: Path) -> Path:
    """Return the folder of a run given as a path, or as a name below ./runs.

    Raises:
        ValueError: there is no such folder.
    """
    for folder in (run, RUNS / run):
        if folder.is_dir():
            return folder
    if run.is_file():
        raise ValueError(
            f"{run} is a file, and this needs the folder of a run. (A file of tools/collect.py "
            "serves tools/compare.py, and curves and budget of tools/figures.py)"
        )
    raise ValueError(f"{run}: there is no such run, nor {RUNS / run}{nearest_run(run)}")


def find_runs(runs: Iterable[Path], find: Callable[[Path], Path] = find_run) -> list[Path]:
    """Return the folders of one or more runs.

    Raises:
        ValueError: no run is named, or one does not exist.
    """
    folders = [find(run) for run in runs]
    if not folders:
        raise ValueError("name a run: its folder, as runs/NAME, or its name below ./runs")
    return folders
