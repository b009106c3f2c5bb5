"""The folder of a run: its name, its settings on disk, and what it resumes from."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from tools.run import checkpoint
from tools.run.config import Config
from tools.run.flags import to_dict

RESUME = "RESUME"
"""File that a stopped run leaves in its folder: there is something to continue."""


def choose(config: Config, accelerator: Accelerator) -> tuple[Path, Path | None]:
    """Return this run's folder, and the checkpoint it continues from, the same on all processes.

    Raises:
        ValueError: the folder named holds a run already, or there is nothing to resume.
    """
    chosen: list = [None, None]
    if accelerator.is_main_process:
        try:
            chosen = list(_choose(config))
        except ValueError as error:
            chosen = [None, str(error)]
    broadcast_object_list(chosen)
    if chosen[0] is None:
        raise ValueError(chosen[1])
    return chosen[0], chosen[1]


def _choose(config: Config) -> tuple[Path, Path | None]:
    if config.resume and config.resume != "auto":
        path = checkpoint.find(Path(config.resume))
        return path.parent.parent, path
    if config.name:
        return _named(config.output / config.name, config.resume == "auto")
    name = default_name(config)
    taken = _numbered(config.output, name)
    if config.resume == "auto":
        for folder in reversed(taken):
            last = checkpoint.last(folder / "checkpoints")
            if last:
                return folder, last
    number = _number(taken[-1].name) + 1 if taken else 1
    return config.output / (name if number == 1 else f"{name}-{number}"), None


def _named(folder: Path, resume: bool) -> tuple[Path, Path | None]:
    """Return the folder named; resumed before its first checkpoint, a run starts over in it."""
    if resume:
        return folder, checkpoint.last(folder / "checkpoints")
    if _holds_a_run(folder):
        raise ValueError(
            f"{folder} holds a run already: continue it with --resume auto, or choose "
            "another --name"
        )
    return folder, None


def default_name(config: Config) -> str:
    """Return METHOD-MIX-DATA."""
    data = Path(config.data.removeprefix("folder:").removesuffix(".beton")).name
    return f"{config.method}-{config.mix}-{data}"


def _numbered(output: Path, name: str) -> list[Path]:
    """Return the folders ``name``, ``name-2``, ... that hold a run, oldest first."""
    pattern = re.compile(re.escape(name) + r"(-\d+)?")
    folders = [f for f in output.glob("*") if pattern.fullmatch(f.name) and _holds_a_run(f)]
    return sorted(folders, key=lambda f: _number(f.name))


def _holds_a_run(folder: Path) -> bool:
    return (folder / "config.yaml").exists()


def _number(name: str) -> int:
    found = re.search(r"-(\d+)$", name)
    return int(found[1]) if found else 1


def write_config(folder: Path, config: Config) -> None:
    """Save the resolved settings; ``--recipe`` reads them back."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(config), sort_keys=False))
