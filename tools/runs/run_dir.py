"""The folder of a run: its name, its lock, its settings, and the checkpoint it resumes from."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import yaml
from accelerate import Accelerator

from pipelines.data_spec import short_name
from tools.config.cli import to_dict
from tools.config.config import Config
from tools.distributed.coordination import main_process_first
from tools.runs import checkpoint
from tools.runs.trackers import start_trackers

RESUME = "RESUME"
"""File that a stopped run leaves in its folder, as a sign that it can be resumed."""
LOCK = ".lock"
"""File that a run keeps locked; the operating system releases the lock when the run ends."""

RECIPE = "# --recipe "
"""First words of the config.yaml of a run with a recipe; the recipe's path follows."""

log = logging.getLogger(__name__)


def refuse_unwritable(config: Config, accelerator: Accelerator) -> None:
    """Check before any work that the run's folder can be written.

    Raises:
        ValueError: the run's folder, or the folder it would be made in, is not writable.
    """

    def attempt() -> None:
        path = config.output / (config.name or "")
        if config.resume and config.resume != "auto":
            path = checkpoint.find(Path(config.resume))[0].parent
        place = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
        try:
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            text = f"--output {config.output}: nothing can be written in {place}: {error.strerror}"
            raise ValueError(text) from error

    main_process_first(accelerator, attempt)


def choose(config: Config, accelerator: Accelerator) -> tuple[Path, Path | None]:
    """Return this run's folder and the checkpoint it resumes from, the same on all processes.

    Raises:
        ValueError: the named folder already holds a run, there is nothing to resume, or all
            checkpoints are damaged.
    """
    return main_process_first(accelerator, lambda: _choose(config))


def _choose(config: Config) -> tuple[Path, Path | None]:
    if config.resume and config.resume != "auto":
        path = checkpoint.first_whole(checkpoint.find(Path(config.resume)))
        return path.parent.parent, path
    if config.name:
        return _named(config.output / config.name, config.resume == "auto")
    name = default_name(config)
    taken = _numbered(config.output, name)
    if config.resume == "auto":
        for folder in reversed(taken):
            if saved := checkpoint.available(folder / "checkpoints"):
                return folder, checkpoint.first_whole(saved)
    number = _number(taken[-1].name) + 1 if taken else 1
    return config.output / (name if number == 1 else f"{name}-{number}"), None


def _named(folder: Path, resume: bool) -> tuple[Path, Path | None]:
    """Return the named folder; a run resumed before its first checkpoint starts over in it."""
    if resume:
        saved = checkpoint.available(folder / "checkpoints")
        return folder, checkpoint.first_whole(saved) if saved else None
    if _holds_a_run(folder):
        raise ValueError(
            f"{folder} holds a run already: continue it with --resume auto, or choose "
            "another --name"
        )
    return folder, None


@contextmanager
def claimed(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """Make the folder and lock it against other runs until the block or this process ends.

    A folder that was made here is removed again if the block fails before the first log line or
    checkpoint: a run that was refused leaves nothing, and its name stays free.

    Raises:
        ValueError: another run holds the lock, or the folder cannot be made.
    """
    held: list[IO[str]] = []
    is_new = accelerator.is_main_process and not folder.exists()
    main_process_first(accelerator, lambda: held.append(_lock(folder)))
    try:
        yield
    except BaseException:
        if is_new and not _holds_results(folder):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        for file in held:
            file.close()


def _lock(folder: Path) -> IO[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+")
    except OSError as error:
        raise ValueError(f"the run's folder cannot be made or written: {error}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read().strip() or "another process"
        file.close()
        raise ValueError(
            f"{folder} is in use by {owner}: end that run first, or choose another --name"
        ) from error
    except OSError as error:  # a file system without locks
        log.warning("%s cannot be locked (%s): do not start a second run in it", folder, error)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file


def default_name(config: Config) -> str:
    """Return the default name, METHOD-MIX-DATA."""
    return f"{config.method}-{config.mix}-{short_name(config.data)}"


def _numbered(output: Path, name: str) -> list[Path]:
    """Return the folders ``name``, ``name-2``, ... that hold a run, oldest first."""
    pattern = re.compile(re.escape(name) + r"(-\d+)?")
    folders = [f for f in output.glob("*") if pattern.fullmatch(f.name) and _holds_a_run(f)]
    return sorted(folders, key=lambda f: _number(f.name))


def _holds_a_run(folder: Path) -> bool:
    return (folder / "config.yaml").exists()


def _holds_results(folder: Path) -> bool:
    metrics = folder / "metrics.jsonl"
    logged = metrics.is_file() and metrics.stat().st_size > 0
    return logged or bool(checkpoint.available(folder / "checkpoints"))


def _number(name: str) -> int:
    found = re.search(r"-(\d+)$", name)
    return int(found[1]) if found else 1


def begin(folder: Path, config: Config, accelerator: Accelerator) -> None:
    """Start the trackers, then write the settings, which make the folder that of a run.

    All processes call it, as the last thing before the first step.

    Raises:
        ValueError: a tracker does not start.
    """
    start_trackers(accelerator, folder, config)
    if accelerator.is_main_process:
        write_config(folder, config)
        (folder / RESUME).unlink(missing_ok=True)
    accelerator.wait_for_everyone()


def write_config(folder: Path, config: Config) -> None:
    """Save the resolved settings below the recipe's path; ``--recipe`` can read the file."""
    folder.mkdir(parents=True, exist_ok=True)
    head = f"{RECIPE}{config.recipe}\n" if config.recipe else ""
    (folder / "config.yaml").write_text(head + yaml.safe_dump(to_dict(config), sort_keys=False))
