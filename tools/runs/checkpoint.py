"""Checkpoint files: written to a temporary file, flushed, renamed; loading runs no code.

A file is the output of ``torch.save``, followed by ``TRAILER`` and the SHA-256 of all before it.
(torch does not verify the checksums of its zip format, and they do not cover its table of
contents.)
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from typing_extensions import Buffer

from pipelines.system.atomic import replacing

log = logging.getLogger(__name__)

FORMAT = 3
KEYS = {"step", "method", "optimizer", "scaler", "config", "data", "world_size"}
TRAILER = b"unmix sha256 "
CHUNK = 1 << 22
BEST = "best"
"""File that names the checkpoint of the best score (``--keep-best``), as ``last`` the last."""


class _Hashed(io.BufferedWriter):
    """A file that keeps the digest of what is written to it, front to back."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "w"))
        self.digest = hashlib.sha256()

    def write(self, data: Buffer, /) -> int:
        """Write, and update the digest."""
        self.digest.update(data)
        return super().write(data)


def save(
    folder: Path,
    step: int,
    state: dict[str, Any],
    keep: int,
    keep_each: int | None = None,
    best: int | None = None,
) -> Path:
    """Write ``folder/step-N.pt`` and point ``folder/last`` at it; drop old files.

    The newest ``keep`` up to this step stay, those at multiples of ``keep_each`` steps, and that of
    the step ``best``, at which ``folder/best`` points. A failed write leaves the earlier
    checkpoints complete.

    Raises:
        OSError: the disk is full or not writable; the partial file is removed.
    """
    path = folder / f"step-{step}.pt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.tmp"):  # of a process that was killed while writing
            leftover.unlink()
        with replacing(path) as aside, _Hashed(aside) as file:
            torch.save({"format": FORMAT, "step": step, **state}, file)
            file.write(TRAILER + file.digest.digest())
        with replacing(folder / "last") as aside:
            aside.write_text(path.name)
        _point_at_best(folder, best)
        older = sorted((p for p in folder.glob("step-*.pt") if step_of(p) <= step), key=step_of)
        for old in older[:-keep]:
            number = step_of(old)
            if number != best and (not keep_each or not number or number % keep_each):
                old.unlink()
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):  # torch hides the system's error behind its own
            raise
        raise OSError(
            f"{path} could not be written: {cause.strerror or cause}. The earlier checkpoints are "
            "complete: make room, then --resume auto"
        ) from error
    return path


def _point_at_best(folder: Path, step: int | None) -> None:
    if step is None:
        (folder / BEST).unlink(missing_ok=True)
        return
    with replacing(folder / BEST) as aside:
        aside.write_text(f"step-{step}.pt")


def step_of(path: Path) -> int:
    """Return the step in a checkpoint's name, -1 if it has none."""
    found = re.fullmatch(r"step-(\d+)\.pt", path.name)
    return int(found[1]) if found else -1


def last(folder: Path) -> Path | None:
    """Return the checkpoint that ``folder/last`` names, or None."""
    return _existing(folder, "last")


def best(folder: Path) -> Path | None:
    """Return the checkpoint that ``folder/best`` names, or None."""
    return _existing(folder, BEST)


def _existing(folder: Path, pointer: str) -> Path | None:
    found = _named(folder, pointer)
    return found if found and found.is_file() else None


def _named(folder: Path, pointer: str = "last") -> Path | None:
    try:
        path = folder / (folder / pointer).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return path if path.parent == folder and step_of(path) >= 0 else None


def available(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder to resume from, best first: ``last``, then older ones.

    Checkpoints after ``last`` belong to an abandoned attempt; without ``last`` all count.
    """
    files = sorted((p for p in folder.glob("step-*.pt") if step_of(p) >= 0), key=step_of)
    named = _named(folder)
    return [p for p in reversed(files) if named is None or step_of(p) <= step_of(named)]


def find(path: Path) -> list[Path]:
    """Return the checkpoints of a path, best first: the file itself, or those of a run's folder.

    Raises:
        ValueError: there is none.
    """
    if path.name == BEST and (chosen := best(path.parent)):
        return [chosen]
    if path.is_file() and path.name != "last":
        return [path]
    folder = path.parent if path.name == "last" else path
    found = available(folder) or available(folder / "checkpoints")
    if not found:
        raise ValueError(f"no checkpoint at {path}")
    return found


def of_run(run: Path, named: Path | None) -> list[Path]:
    """Return the checkpoints that ``--checkpoint`` means for a run's folder, preferred first.

    ``named`` is a path, the name of a file in ``checkpoints/``, ``best`` or ``last``; without it
    all checkpoints count, the last first.

    Raises:
        ValueError: there is none; the text says which there are.
    """
    if named is None:
        return find(run)
    folder = run / "checkpoints"
    if str(named) == BEST and not named.is_file():
        chosen = best(folder)
        if chosen is None:
            raise ValueError(
                f"--checkpoint best: {folder} has none; train.py --keep-best keeps it. "
                f"{_listing(folder)}"
            )
        return [chosen]
    if not named.exists() and (folder / named).is_file():
        named = folder / named
    try:
        return find(named)
    except ValueError as error:
        raise ValueError(f"--checkpoint {named}: {error}. {_listing(folder)}") from error


def _listing(folder: Path) -> str:
    names = [path.name for path in available(folder)]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{folder} holds {', '.join(names[:5]) or 'no checkpoint'}{more}"


def first_whole(paths: Sequence[Path]) -> Path:
    """Return the first undamaged checkpoint; warn about the damaged ones before it.

    Raises:
        ValueError: all are damaged; the text has each with the reason.
    """
    damaged: list[str] = []
    for path in paths:
        try:
            check(path)
        except ValueError as error:
            damaged.append(str(error))
            continue
        if damaged:
            log.warning("%s\ngoing on from %s, the one before", "\n".join(damaged), path)
        return path
    raise ValueError("\n".join(damaged))


def check(path: Path) -> None:
    """Read a checkpoint and verify its digest.

    Raises:
        ValueError: the file cannot be read, or is damaged; the text names it.
    """
    digest, tail = hashlib.sha256(), b""
    length = len(TRAILER) + digest.digest_size
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                held = tail + chunk
                digest.update(held[:-length])
                tail = held[-length:]
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    if not tail.startswith(TRAILER) or len(tail) < length:
        raise ValueError(f"{path} is damaged: its end is missing")
    if tail[len(TRAILER) :] != digest.digest():
        raise ValueError(f"{path} is damaged: its content is not what was written")


def signature(path: Path) -> bytes:
    """Return the digest stored at a checkpoint's end; empty if there is no such file."""
    try:
        with path.open("rb") as file:
            file.seek(-hashlib.sha256().digest_size, os.SEEK_END)
            return file.read()
    except OSError:
        return b""


def is_copy(path: Path, end: bytes) -> bool:
    """Whether ``path`` is an undamaged checkpoint with the signature ``end``."""
    if signature(path) != end:
        return False
    try:
        check(path)
    except ValueError:
        return False
    return True


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the host.

    Raises:
        ValueError: it is missing, damaged, or of another format.
    """
    check(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything from EOFError to UnpicklingError
        raise ValueError(f"{path} is not a readable checkpoint: {error}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT or KEYS - state.keys():
        raise ValueError(f"{path} is not a checkpoint of this version of the trainer")
    return state
