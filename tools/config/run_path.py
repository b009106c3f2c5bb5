"""The path of a run, or of a file in one, given as a path or by a name below ./runs."""

from __future__ import annotations

import difflib
from pathlib import Path

RUNS = Path("runs")


def run_path(given: Path) -> Path:
    """Return a path as given if something is there, else below ./runs if something is there.

    A path that is at neither place is returned as given.
    """
    if given.exists() or not (RUNS / given).exists():
        return given
    return RUNS / given


def nearest_run(given: Path) -> str:
    """Return a suggestion for a run that does not exist, to end a message; empty without one."""
    places = dict.fromkeys((given.parent, RUNS))
    found = {f.parent.name: f.parent for place in places for f in place.glob("*/config.yaml")}
    near = difflib.get_close_matches(given.name, found, 3)
    near = near or [name for name in sorted(found) if given.name and given.name in name][:3]
    return f" (did you mean {' or '.join(str(found[name]) for name in near)}?)" if near else ""


def saved_settings(path: Path) -> Path:
    """Return the settings' file of --resume's run, named by its folder or a checkpoint in it.

    The path may start below ./runs.

    Raises:
        ValueError: there is no checkpoint.
    """
    path = run_path(path)
    folder = path if path.is_dir() else path.parent
    if folder.name != "checkpoints" and (folder / "checkpoints").is_dir():
        folder /= "checkpoints"
    if not (path.exists() or path.name == "last") or not any(folder.glob("step-*.pt")):
        raise ValueError(f"--resume {path}: no checkpoint at {path}{nearest_run(path)}")
    return folder.parent / "config.yaml"
