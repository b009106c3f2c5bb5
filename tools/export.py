"""Export the backbone of a run for another tool, with a model card, and verify the export.

Examples:
    python tools/export.py runs/NAME --to timm backbone.safetensors
    python tools/export.py runs/NAME --to torchvision backbone.pth
    python tools/export.py runs/NAME --to huggingface FOLDER
    python tools/export.py runs/NAME --to huggingface FOLDER --push ACCOUNT/NAME
    python tools/export.py runs/NAME --to detectron2 backbone.pkl
    python tools/export.py runs/NAME --to onnx backbone.onnx
"""

from __future__ import annotations

if __package__ is None:  # run as a script
    from diagnostics import environment

    environment.check()

import dataclasses
import importlib.util
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from models.settings.base import Which
from pipelines.system.atomic import replacing
from tools.config.run_path import run_path
from tools.exporting import detectron2, hub, huggingface, onnx, torchvision
from tools.exporting import timm as timm_file
from tools.exporting.card import card
from tools.exporting.source import Source, load
from tools.runs.command import by_position, command

TOLERANCE = 1e-4
"""Largest accepted difference of an export's features, as a share of the largest feature."""
CARD = "README.md"


@dataclass(frozen=True)
class Target:
    """The functions that export for one tool."""

    suffixes: tuple[str, ...]
    """Allowed suffixes of OUTPUT; empty if OUTPUT is a folder."""
    check: Callable[[Source], None]
    write: Callable[[Source, Path], list[str]]
    example: Callable[[Source, Path], str]
    verify: Callable[[Source, Path], float]
    packages: tuple[str, ...] = ()
    """Additional packages that it needs."""


def _target(module: Any, *packages: str) -> Target:
    return Target(
        module.SUFFIXES, module.check, module.write, module.example, module.verify, packages
    )


TargetName = Literal["timm", "torchvision", "huggingface", "detectron2", "onnx"]
TARGETS: dict[TargetName, Target] = {
    "timm": _target(timm_file, "safetensors"),
    "torchvision": _target(torchvision),
    "huggingface": _target(huggingface, "safetensors"),
    "detectron2": _target(detectron2),
    "onnx": _target(onnx, "onnx", "onnxscript", "onnxruntime"),
}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Export the backbone of a run for another tool."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run to export: its folder, as runs/NAME, or NAME below ./runs; also --run RUN."""
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT")]
    """File to write, with the tool's suffix, or a folder for huggingface; also --output OUTPUT."""
    to: TargetName
    """Tool to export for."""
    checkpoint: Path | None = None
    """Checkpoint to export (default: the run's last)."""
    encoder: Which | None = None
    """The trained encoder or its momentum (EMA) copy (default: the one that eval.py scores)."""
    overwrite: bool = False
    """Replace an earlier export; with --push, also add a commit to a model that exists."""
    push: str | None = None
    """Also send the folder of --to huggingface to the hub, as ACCOUNT/NAME."""
    private: bool = False
    """Make the model of --push visible to its account alone."""
    dry_run: bool = False
    """Make and verify the export of --push, list what would be sent, and keep and send nothing."""
    licence: Annotated[str | None, tyro.conf.arg(name="license")] = None
    """Licence for the model card, by the hub's name, as apache-2.0 (default: left open)."""

    @property
    def place(self) -> hub.Place | None:
        """Where to send the export."""
        return hub.Place(self.push, self.private, self.overwrite) if self.push else None


def main(argv: Sequence[str] | None = None) -> int:
    """Export; return the exit status."""
    words = by_position(sys.argv[1:] if argv is None else argv)
    return command(
        "tools/export.py", lambda: export(tyro.cli(Arguments, args=words, description=__doc__))
    )


def export(args: Arguments) -> None:
    """Write the export next to OUTPUT, verify it there, and only then move it to OUTPUT.

    Raises:
        ValueError: the tool does not support this backbone, OUTPUT exists, the features differ, or
            the hub refuses the model.
    """
    args = dataclasses.replace(args, run=run_path(args.run))
    target = TARGETS[args.to]
    check_push(args)
    readme = check_place(args, target)
    source = load(args.run, args.checkpoint, args.encoder)
    target.check(source)
    if args.place and not args.dry_run:
        hub.check_access(args.place)
    out = args.output.absolute()
    above = None if args.dry_run else out.parent
    if above:
        above.mkdir(parents=True, exist_ok=True)
    aside = tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".tmp", dir=above)
    with aside as folder:
        staged = Path(folder) / out.name
        notes, difference = write(args, target, source, staged)
        described = (Path(folder) if target.suffixes else staged) / readme.name
        described.write_text(describe(args, target, source, notes), encoding="utf-8")
        if args.dry_run:
            print(*hub.listing(staged, huggingface.FILES), sep="\n")
            print(f"\nwould go to {args.push} on the hub; nothing was sent or kept")
            return
        place(staged, out)
        if target.suffixes:
            place(described, readme)
    print(f"{args.output}: {source.architecture}, {source.which} encoder of step {source.step:,}")
    print(readme)
    for note in notes:
        print(f"\n{note}")
    print(f"\n{target.example(source, args.output)}")
    print(f"\nverified: max difference {difference:.1e} of the largest feature")
    if args.place:
        message = f"{source.architecture}, {source.which} encoder of step {source.step:,}, by unmix"
        print(f"sent: {hub.push(args.output, huggingface.FILES, args.place, message)}")


def write(args: Arguments, target: Target, source: Source, staged: Path) -> tuple[list[str], float]:
    """Write the export, and return notes for the user and the largest difference of features.

    Raises:
        ValueError: the features differ.
    """
    notes = [*source.doubts(), *target.write(source, staged)]
    difference = target.verify(source, staged)
    if not difference <= TOLERANCE:
        raise ValueError(
            f"--to {args.to}: the export's features differ by {difference:.1e} of the largest "
            f"feature (at most {TOLERANCE:.0e}); nothing was written"
        )
    return notes, difference


def describe(args: Arguments, target: Target, source: Source, notes: Sequence[str]) -> str:
    """Return the model card, whose code loads the export from the card's own folder or the hub."""
    if args.push:
        code = huggingface.hub_example(source, args.push)
    else:
        code = target.example(source, Path(args.output.absolute().name))
    line = command_of(args, source)
    return card(source, args.run, args.to, code, notes, line, args.licence)


def check_push(args: Arguments) -> None:
    """Check the flags of the hub.

    Raises:
        ValueError: they contradict each other or ``--to``, or the name is none.
    """
    if args.push is None:
        for name in ("private", "dry_run"):
            if getattr(args, name):
                raise ValueError(f"--{name.replace('_', '-')} needs --push ACCOUNT/NAME")
        return
    if args.to != "huggingface":
        raise ValueError(f"--push needs --to huggingface, not --to {args.to}")
    hub.check_name(args.push)


def check_place(args: Arguments, target: Target) -> Path:
    """Return the model card's path, which is in the folder or next to the file.

    Raises:
        ValueError: OUTPUT does not suit the tool or exists, or a package is missing.
    """
    missing = [name for name in target.packages if importlib.util.find_spec(name) is None]
    if missing:
        names = ", ".join(missing)
        raise ValueError(
            f"--to {args.to} needs {names}: .venv/bin/uv pip install {' '.join(missing)}"
        )
    if target.suffixes and args.output.suffix not in target.suffixes:
        endings = " or ".join(target.suffixes)
        raise ValueError(f"--to {args.to} writes a file that ends in {endings}, not {args.output}")
    if not target.suffixes and args.output.exists() and not args.output.is_dir():
        raise ValueError(f"--to {args.to} writes a folder, and {args.output} is a file")
    if target.suffixes and args.output.is_dir():
        raise ValueError(f"--to {args.to} writes a file, and {args.output} is a folder")
    readme = (
        args.output.with_name(f"{args.output.name}.{CARD}")
        if target.suffixes
        else args.output / CARD
    )
    for path in () if args.dry_run else (args.output, readme):
        if path.exists() and not args.overwrite:
            raise ValueError(f"{path} exists: choose another OUTPUT, or --overwrite")
    return readme


def command_of(args: Arguments, source: Source) -> str:
    """Return the command line for the model card, without a machine's folders."""
    words = ["python", "tools/export.py", f"runs/{args.run.absolute().name}"]
    words += ["--checkpoint", f"step-{source.step}.pt"] if args.checkpoint else []
    words += ["--encoder", source.which, "--to", args.to, args.output.absolute().name]
    return shlex.join(words)


def place(staged: Path, final: Path) -> None:
    """Move a file or folder to its place; into an existing folder, move file by file."""
    if not staged.is_dir():
        with replacing(final) as aside:
            staged.replace(aside)
    elif final.exists():
        for path in sorted(staged.iterdir()):
            place(path, final / path.name)
    else:
        staged.rename(final)


if __name__ == "__main__":
    sys.exit(main())
