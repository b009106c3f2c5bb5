"""Train on the embedded photographs and score the result, as ``make train`` does.

Each step is a separate command, which is printed before it runs. Options are ``train.py``'s::

    python tools/demo.py --method byol --mix unmix

The run folder is named after the options. With the same options an unfinished run is resumed and a
finished one is only scored; remove the folder to start again.
"""

from __future__ import annotations

if __package__ is None:  # run as a script
    from diagnostics import environment

    environment.check()

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.sources.photos import VERSION
from pipelines.system.cache import cache_root
from tools.diagnostics.checks import check_ffcv
from tools.runs.command import command

ROOT = Path(__file__).resolve().parent.parent
PYTHON = Path(sys.executable)


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare, train, score, and print the result; return the exit status."""
    return command("tools/demo.py", lambda: run(sys.argv[1:] if argv is None else argv))


def run(argv: Sequence[str]) -> None:
    """Run the steps one after the other; the first that fails ends the command."""
    args, rest = read(argv)
    os.chdir(ROOT)
    # Ctrl-C reaches every process of the terminal; train.py saves before it ends, so wait for it.
    signal.signal(signal.SIGINT, lambda *_: None)

    folder = args.output / (args.name or run_name(args, rest))
    if args.loader == "ffcv":
        train, val = (convert(split) for split in ("train", "val"))
        data = ["--data", train, "--val-data", val]
    else:
        data = ["--data", "photos"]
    call(
        *(PYTHON.with_name("accelerate"), "launch", *launch_options()),
        *("train.py", "--recipe", args.recipe, "--method", args.method, "--mix", args.mix),
        *(*data, "--loader", args.loader),
        *("--output", args.output, "--name", folder.name, "--resume", "auto", *rest),
    )
    call(PYTHON, "eval.py", "knn", "--run", folder)
    report(folder)


def read(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Split ``argv`` into the options that the steps share and those of ``train.py`` only."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--method", default="swav")
    parser.add_argument("--mix", default="region")
    parser.add_argument("--loader")
    parser.add_argument("--recipe", default="recipes/photos.yaml")
    parser.add_argument("--output", type=Path, default=Path("runs"))
    parser.add_argument("--name")
    parser.add_argument("--data")
    args, rest = parser.parse_known_args(argv)
    if args.data:
        words = [*("--method", args.method, "--mix", args.mix, "--data", args.data), *rest]
        sys.exit(
            "the demo has its own data; to train on yours, run\n"
            f"  .venv/bin/accelerate launch train.py {shlex.join(words)}"
        )
    if args.loader is None:
        ffcv = check_ffcv()
        args.loader = "ffcv" if ffcv.ok else "dali"
        if not ffcv.ok:
            print(f"FFCV cannot be used ({ffcv.found}): --loader dali", flush=True)
    return args, rest


def run_name(args: argparse.Namespace, rest: Sequence[str]) -> str:
    """Name the run after its options, so that other options give another run."""
    words = ["photos", args.method, args.mix, *rest]
    if args.loader != "ffcv":
        words.append(args.loader)
    return re.sub(r"[^\w.]+", "-", " ".join(words)).strip("-")


def launch_options() -> list[object]:
    """Return the flags without which ``accelerate launch`` warns: one process, all cores."""
    cores = len(os.sched_getaffinity(0))
    return [
        *("--num_processes", 1, "--num_machines", 1),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--num_cpu_threads_per_process", cores),  # it would set OMP_NUM_THREADS=1
    ]


def convert(split: str) -> Path:
    """Write a split of the photographs as a ``.beton`` unless it exists; return its path."""
    file = cache_root() / f"photos-v{VERSION}-{split}.beton"
    if not file.exists():
        call(PYTHON, "tools/write_ffcv.py", "photos", file, "--split", split, "--keep-jpeg")
    return file


def call(*words: object) -> None:
    """Print a command and run it; if it fails, exit with its exit code."""
    command = [shown(word) for word in words]
    print(f"\n$ {shlex.join(command)}", flush=True)
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code if code > 0 else 128 - code)


def shown(word: object) -> str:
    """Return a word as text; paths inside the checkout become relative to it."""
    if isinstance(word, Path) and word.is_relative_to(ROOT):
        return str(word.relative_to(ROOT))
    return str(word)


def report(run: Path) -> None:
    """Print the kNN scores of the untrained and the trained network, and the pictures' paths."""
    before = [row for row in scores(run / "metrics.jsonl") if row.get("step") == 0]
    after = scores(run / "eval.jsonl")
    print(f"\nkNN top-1 before training  {percent(before[:1])}")
    print(f"kNN top-1 after training   {percent(after[-1:])}")
    for picture in ("curves.png", "views.png", "report.html"):
        print(run / picture)


def scores(file: Path) -> list[dict[str, Any]]:
    """Return the lines of ``file`` that hold a kNN score."""
    if not file.exists():
        return []
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [row for row in rows if row.get("knn_top1") is not None]


def percent(rows: Sequence[dict[str, Any]]) -> str:
    """Return the score of the first row, if any, as text."""
    return f"{rows[0]['knn_top1']:.1%}" if rows else "not measured"


if __name__ == "__main__":
    sys.exit(main())
