"""One file a checkpoint: written aside, flushed to disk, renamed; loading cannot run code."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch

FORMAT = 2
KEYS = {"step", "method", "optimizer", "scaler", "config", "data", "world_size"}


def save(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write ``folder/step-N.pt``, point ``folder/last`` at it, keep the newest ``keep`` files.

    Whatever happens while writing, the checkpoints before stay whole.

    Raises:
        OSError: the disk is full or not writable; the half-written file is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step}.pt"
    _replace(path, lambda file: torch.save({"format": FORMAT, "step": step, **state}, file))
    _replace(folder / "last", lambda file: file.write(path.name.encode()))
    older = sorted(folder.glob("step-*.pt"), key=step_of)
    for old in older[: max(len(older) - keep, 0)]:
        if old != path:
            old.unlink()
    return path


def _replace(path: Path, write: Any) -> None:
    aside = path.with_name(f".{path.name}.tmp")
    try:
        with open(aside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def step_of(path: Path) -> int:
    """Return the step in a checkpoint's name, -1 if it has none."""
    found = re.fullmatch(r"step-(\d+)\.pt", path.name)
    return int(found[1]) if found else -1


def last(folder: Path) -> Path | None:
    """Return the checkpoint that ``folder/last`` names, or None."""
    try:
        path = folder / (folder / "last").read_text().strip()
    except OSError:
        return None
    return path if path.is_file() else None


def find(path: Path) -> Path:
    """Return the checkpoint meant by a path: itself, or the last of a run or of its checkpoints.

    Raises:
        ValueError: there is none.
    """
    if path.is_file() and path.name != "last":
        return path
    folder = path.parent if path.name == "last" else path
    found = last(folder) or last(folder / "checkpoints")
    if found is None:
        raise ValueError(f"no checkpoint at {path}")
    return found


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the host.

    Raises:
        ValueError: it is missing, damaged, or of another format.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such checkpoint") from error
    except Exception as error:  # torch raises anything from EOFError to UnpicklingError
        raise ValueError(f"{path} is not a readable checkpoint: {error}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT or KEYS - state.keys():
        raise ValueError(f"{path} is not a checkpoint of this trainer")
    return state
